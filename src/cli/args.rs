//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::access_args::{GrantCommand, PolicyCommand, TagCommand};
use super::access_key::AccessKeyCommand;
use super::alias::AliasCommand;
use super::audit_args::{AuditCommand, AuditMode};
use super::bench_args::Bench;
use super::custom_key_store::CustomKeyStoreCommand;
use super::key_args::KeyCommand;
use super::key_store::DEFAULT_ALIAS;
use super::lock::LockWhen;
use super::serve::Serve;
use super::settings::idle_timeout;
use super::store_args::StoreCommand;
use super::volume_args::VolumeCommand;

/// Encrypt a directory, file by file, under keys that can be switched off.
///
/// A volume is a directory of ciphertext. Mounted, it is a normal directory: every file in it has
/// its own data key, and a master key in the key store wraps that. Disable a master key and exactly
/// its files become unreadable, open ones included; enable it and they are back. Rotating it
/// rewrites no data.
#[derive(Debug, Parser)]
#[command(name = "kmsfs", version, propagate_version = true, after_long_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(super) struct Global {
    /// Directory of the key store
    ///
    /// By default /var/lib/kmsfs for root, and kmsfs in the XDG data directory for others.
    #[arg(long, global = true, value_name = "DIR", env = "KMSFS_KEYSTORE")]
    pub(super) keystore: Option<PathBuf>,

    /// Read the passphrase from the first line of FILE
    #[arg(long, global = true, value_name = "FILE", group = "secret", help_heading = UNLOCKING)]
    pub(super) passphrase_file: Option<PathBuf>,

    /// Unlock with the contents of FILE, 32 bytes or more, instead of a passphrase
    #[arg(long, global = true, value_name = "FILE", group = "secret", help_heading = UNLOCKING)]
    pub(super) key_file: Option<PathBuf>,

    /// Take the first line that COMMAND prints as the passphrase; it is run by sh
    #[arg(long, global = true, value_name = "COMMAND", group = "secret", help_heading = UNLOCKING)]
    pub(super) passphrase_command: Option<String>,

    /// Unlock with the recovery key that FILE has as text, as 'kmsfs store recovery-kit' printed it
    #[arg(long, global = true, value_name = "FILE", group = "secret", help_heading = UNLOCKING)]
    pub(super) recovery_key_file: Option<PathBuf>,

    /// What becomes of calls when the audit log cannot be written
    ///
    /// For commands that have the key store open themselves, such as mount.
    #[arg(long, global = true, value_name = "MODE", value_enum, default_value_t, env = "KMSFS_AUDIT")]
    pub(super) audit: AuditMode,

    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

const UNLOCKING: &str = "Unlocking the key store";

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an empty directory a volume
    ///
    /// The directory is created if it does not exist. On first use this also creates the key store,
    /// asks for its passphrase, and creates a master key, alias/default, for files that are assigned
    /// no other.
    Init(Init),
    /// Mount a volume
    ///
    /// Goes to the background once the mount is ready, unless -f is given. Messages go to
    /// log/VOLUME.log in the key store's directory then. SIGTERM ends it, as 'kmsfs umount' does.
    ///
    /// 'mount -t fuse.kmsfs DIR MOUNTPOINT -o OPT,...' and lines of fstab(5) do the same.
    Mount(Mount),
    /// Unmount a volume and wait until everything is on disk
    Umount(Umount),
    /// Create and manage master keys
    ///
    /// A KEY is named by its id, its ARN or alias/NAME.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Give names to master keys
    ///
    /// Wherever a KEY is wanted, alias/NAME will do.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Say who may do what with a key, and ask why
    ///
    /// A policy is a JSON document as AWS KMS has them. Without one of its own, a key is for the owner
    /// of the key store alone. docs/ACCESS.md explains.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Give and take back permissions to use a key, one by one
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Put words on keys, for people and for policies
    #[command(subcommand)]
    Tag(TagCommand),
    /// Back up, restore and look after the key store
    ///
    /// Without the key store, or a backup of it, the data is lost.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Serve the key store's keys, on this machine and to clients of AWS KMS
    ///
    /// Stays in the foreground and tells a service manager when it is ready. SIGTERM and SIGINT end it
    /// once calls under way are answered; SIGHUP has it read its certificate again, and ends it if it
    /// has none. docs/KEY-SERVICE.md says how clients are set up.
    Serve(Serve),
    /// Manage what users who come over the network sign their requests with
    #[command(subcommand)]
    AccessKey(AccessKeyCommand),
    /// Let key managers elsewhere have the other half of keys
    ///
    /// They are asked by AWS's API for external key stores. docs/EXTERNAL-KEYS.md explains.
    #[command(subcommand)]
    CustomKeyStore(CustomKeyStoreCommand),
    /// Look at the log of all calls of the key store, and verify it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Show and forget the volumes that use the key store, and take one to another key store
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Count anew what wraps the files of a volume
    ///
    /// A volume knows at any time how many files each version of a master key wraps. After a crash it is
    /// counted by itself when it is mounted; a volume that was made by an older release, or whose index
    /// is damaged, is counted by this. It may be in use meanwhile.
    Reindex {
        /// A mount point or a volume
        path: PathBuf,
    },
    /// Look at files in a mount
    #[command(subcommand)]
    File(FileCommand),
    /// Check a volume that is not mounted, and repair it
    ///
    /// Looks at every entry of the ciphertext directory and opens everything in it. Without --repair
    /// nothing is written. A mounted volume is refused: see 'kmsfs scrub' for those. docs/FSCK.md lists
    /// what it finds.
    #[command(after_help = FSCK_CODES)]
    Fsck(Fsck),
    /// Read all files of a mounted volume, to find damage before it is too late
    ///
    /// Bypasses the kernel's cache where it can. Goes on where it was interrupted the last time. Files
    /// that are changed or removed meanwhile are no error.
    #[command(after_help = FSCK_CODES)]
    Scrub(Scrub),
    /// Wrap the data keys of files by the newest versions of their master keys
    ///
    /// After 'kmsfs key rotate', so that the older versions are no longer needed. Only headers of files
    /// are read and written, no data. PATH is a volume that is not mounted, or a file or directory in a
    /// mount, which goes on being used. It may be interrupted at any time: files that are done are passed
    /// over the next time. At the end every header is looked at again, and files that are still wrapped
    /// by an older version are named, with the reason.
    Rewrap(Rewrap),
    /// Take the key store's keys out of memory, while mounts stay
    ///
    /// What programs have written is brought to disk; then no file's contents can be reached until 'kmsfs
    /// unlock', open files included. Names and attributes can, and files can be renamed and removed. It
    /// ends with 38 if a mount did not answer.
    Lock,
    /// Bring the key store's keys back
    ///
    /// Takes the secret as every command does, and hands it to the process that has the key store open.
    /// Programs that kept their files open go on.
    Unlock,
    /// Show which key stores and mounts are alive
    ///
    /// Needs no passphrase: it asks the process that has the key store open, if there is one.
    Status,
    /// Measure the speed of encryption on this machine, or of a mount
    ///
    /// In memory and on one thread, with every implementation that the machine can run: the cipher
    /// alone, and whole files of chunks.
    ///
    /// With a directory, a mount as programs see it: a large file is written, read and changed at
    /// random, and small ones are made, looked at, read and removed, in a directory that goes
    /// afterwards, also if a signal ends it. No other file is touched, and no right is needed but that
    /// to write there.
    Bench(Bench),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Directory for the ciphertext
    pub(super) dir: PathBuf,
    /// Master key for new files
    #[arg(long, value_name = "KEY", default_value = DEFAULT_ALIAS)]
    pub(super) key: String,
}

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// The volume
    pub(super) dir: PathBuf,
    /// An empty directory
    pub(super) mountpoint: PathBuf,
    /// Stay in the foreground
    ///
    /// Messages go to standard error, and $NOTIFY_SOCKET is told when the mount is ready.
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Mount options, separated by commas
    ///
    /// ro, rw, allow_other, key_access=mount or user (whose permission on keys counts; under allow_other
    /// that of the user who opens a file), default_permissions (the kernel checks permissions even where root
    /// alone gets in), nonempty, threads=N, low_latency (as root: processors stay awake while the mount is
    /// used, which makes small operations faster and takes power), writeback (faster small writes, which are
    /// lost if the mount's process is killed), and as in mount(8): dev, nodev, suid, nosuid, exec, noexec, atime,
    /// noatime, sync, async, dirsync. With key_ttl=DURATION, 5m by default, data keys live no longer without
    /// the key service: when it was not heard for so long, open files are cut off until it is back. Those for fstab(5), such as noauto, user or x-*, are passed over.
    ///
    /// For use in fstab(5), also keystore=DIR, key_file=FILE, passphrase_file=FILE,
    /// idle_timeout=DURATION, lock_after=DURATION and lock_on_suspend, which mean the same as the options of these names. There is none for a
    /// command: a list of options is copied by many programs and is no place for code.
    #[arg(short, long, value_name = "OPT,...")]
    pub(super) options: Vec<String>,
    /// Unmount when nothing has used the mount for that long: 90s, 10m, 2h
    ///
    /// As long as a file is open in it or a program works in one of its directories, it stays. What
    /// the kernel answers from its caches does not count as use, nor do df and a look at the mount
    /// point itself.
    #[arg(long, value_name = "DURATION", value_parser = idle_timeout)]
    pub(super) idle_timeout: Option<Duration>,
    #[command(flatten)]
    pub(super) lock_when: LockWhen,
    /// Absent when a person typed the command
    #[arg(skip)]
    pub(super) from_mount: Option<FromMount>,
}

/// What mount(8) wants differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromMount {
    /// Unknown options are passed over.
    pub(super) sloppy: bool,
    /// Everything is checked, but nothing mounted.
    pub(super) fake: bool,
}

/// Arguments of `umount`.
#[derive(Debug, Args)]
pub(super) struct Umount {
    /// Where the volume is mounted
    pub(super) mountpoint: PathBuf,
}

/// Arguments of `fsck`.
#[derive(Debug, Args)]
pub(super) struct Fsck {
    /// The volume
    pub(super) dir: PathBuf,
    /// Check only what shows without keys, as on a backup host; needs no key store
    #[arg(long)]
    pub(super) keyless: bool,
    /// Leave out the contents of files, which take most of the time
    #[arg(long)]
    pub(super) headers_only: bool,
    /// Repair what can be repaired without losing anything
    ///
    /// What cannot be proven is moved to kmsfs.lost+found in the volume. Everything is read: neither
    /// --keyless nor --headers-only go with it.
    #[arg(long, conflicts_with_all = ["keyless", "headers_only"])]
    pub(super) repair: bool,
    /// As --repair, for fsck(8)
    #[arg(short = 'p', short_alias = 'a', conflicts_with_all = ["keyless", "headers_only"])]
    pub(super) preen: bool,
    /// As --repair: there are no questions to answer
    #[arg(short = 'y', conflicts_with_all = ["keyless", "headers_only"])]
    pub(super) yes: bool,
    /// Write nothing, as without --repair
    #[arg(short = 'n', conflicts_with_all = ["repair", "preen", "yes"])]
    pub(super) no: bool,
}

/// Arguments of `scrub`.
#[derive(Debug, Args)]
pub(super) struct Scrub {
    /// Where the volume is mounted
    pub(super) mountpoint: PathBuf,
    /// Read at most so many bytes a second: 50M, 1G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(super) limit: Option<u64>,
    /// Begin anew instead of where it was interrupted
    #[arg(long)]
    pub(super) restart: bool,
}

/// Arguments of `rewrap`.
#[derive(Debug, Args)]
pub(super) struct Rewrap {
    /// A volume, or a file or directory in a mount
    pub(super) path: PathBuf,
    /// Only files under this master key: its id, its ARN or alias/NAME
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Only files that are wrapped by a version below this one
    #[arg(long, value_name = "VERSION")]
    pub(super) older_than: Option<u32>,
    /// At most so many files a second
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub(super) rate: Option<u32>,
}

/// What to do with files.
#[derive(Debug, Subcommand)]
pub(super) enum FileCommand {
    /// Show ids, master key, key version and sizes of files
    Info {
        /// Files or directories in a mount
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Show what wraps the data key of each file: master key and version
    List {
        /// A file or directory in a mount, or a volume
        path: PathBuf,
        /// Only files under this master key: its id, its ARN or alias/NAME
        #[arg(long)]
        key: Option<String>,
        /// Only files that are wrapped by an older version of their master key, or whose re-encryption
        /// is not done
        #[arg(long)]
        stale: bool,
    },
    /// Put files under another master key
    ///
    /// Their data keys are wrapped anew, by its newest version; no data is read or written, and the
    /// files may be in use. Whoever does it has to own the files, and both master keys have to be
    /// usable. The data keys stay: whoever kept one can still use it, unless --new-data-key encrypts
    /// the contents anew.
    SetKey(SetKey),
}

/// Arguments of `file set-key`.
#[derive(Debug, Args)]
pub(super) struct SetKey {
    /// Id, ARN or alias/NAME
    pub(super) key: String,
    /// Files in a mount; with -r also directories
    #[arg(required = true)]
    pub(super) paths: Vec<PathBuf>,
    /// Everything in directories too, and new files in them from now on
    #[arg(short, long)]
    pub(super) recursive: bool,
    /// Encrypt the contents anew under new data keys, in place, while the files stay in use
    ///
    /// Interrupted at any time, by a crash too, a file reads as before; the same command goes on with
    /// it. Files that were done are done again.
    #[arg(long)]
    pub(super) new_data_key: bool,
    /// Encrypt at most so many bytes a second: 50M, 1G
    #[arg(long, value_name = "BYTES", value_parser = bytes, requires = "new_data_key")]
    pub(super) limit: Option<u64>,
}

/// A number of bytes, with a suffix of K, M, G or T for powers of 1024.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const SUFFIXES: [char; 4] = ['K', 'M', 'G', 'T'];
    let suffix = text.chars().last().and_then(|c| SUFFIXES.iter().position(|s| s.eq_ignore_ascii_case(&c)));
    let (digits, shift) = match suffix {
        Some(at) => (&text[..text.len() - 1], 10 * (at as u32 + 1)),
        None => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes, as 50M".to_owned())?;
    let bytes = number.checked_mul(1 << shift).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| "not between 1 and 16 EiB".to_owned())
}

/// A number of files a second.
fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| "not a number of files a second, as 500/s".to_owned())
}

const FSCK_CODES: &str = "\
Exit codes are those of fsck(8), added up:
   0  no errors
   1  errors were corrected
   4  errors are left
   8  something could not be looked at, or the check could not begin
  16  wrong usage
  32  ended by a signal
 128  the operating system or a library failed";

const EXIT_CODES: &str = "\
The passphrase is taken from --passphrase-file, --key-file, --recovery-key-file or \
--passphrase-command; else from the environment variable KMSFS_PASSPHRASE; else from the systemd credential kmsfs.passphrase or \
kmsfs.key-file; else it is asked for. It is never an argument.

Called by mount(8), the program exits with that one's codes: 1 for wrong usage, 32 for all else. \
'kmsfs fsck' and 'kmsfs scrub' exit with those of fsck(8), which their help lists.

Exit codes:
   0  done
   1  something unexpected; the message says what
   2  wrong usage
  10  the directory is not a volume
  11  the volume is of an unknown version, or damaged
  12  the volume is mounted already
  13  wrong passphrase or key file
  14  there is no key store, or it is not one
  15  the key belongs to another key store
  16  the mount point cannot be used
  17  read-only
  18  no space left
  19  no such key or alias
  20  the key's state does not allow it
  21  not a kmsfs mount
  22  the key store is in use, or its owner or a proxy does not answer
  23  the directory is not empty, or is a volume already
  24  no passphrase was given
  25  FUSE is not available
  26  the mount is busy
  27  the name is taken
  28  permission denied
  29  the backup that is kept could not be written, so nothing was changed
  30  the backup is damaged, is none, or lacks something
  31  restoring would lose key versions
  32  something is wrong with the audit log
  33  files could not be wrapped as wanted; they are named
  34  ended by a signal; the same command goes on
  35  it was not confirmed, so nothing was changed
  36  the number of files that depend on the key is another one, or not certain
  37  files still depend on that version of the key
  38  a mount did not answer when the key store was locked: its files may still be readable
  39  files could not be encrypted anew; they are named
  40  changes to files could not be written, so the key stays as it is
  41  a receipt of a deleted key is not genuine
  42  the keys of files are missing; they are named";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn bytes_have_suffixes() {
        let parsed =
            ["1", "2k", "50M", "3G", "0", "-1", "5X", "", "20000000000G"].map(|text| bytes(text).ok());
        let expected = [Some(1), Some(2048), Some(50 << 20), Some(3 << 30), None, None, None, None, None];
        assert_eq!(parsed, expected);
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
