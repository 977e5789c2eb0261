//! What can be typed behind `kmsfs store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with the key store.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Show the key store's id, what opens it and which backup is kept
    Info,
    /// Print what receipts of deleted keys are verified with, an Ed25519 public key
    ///
    /// It is the same for as long as there is the key store, restored ones included. Keep it where
    /// whoever may change the key store may not.
    PublicKey {
        /// Write it to FILE
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Read the whole key store again and check every record in it
    ///
    /// With the backup that is kept, if there is one: it must open and lack no key version.
    ///
    /// Exit codes: 11 the key store is damaged, 30 the backup is damaged or lacks something.
    #[command(verbatim_doc_comment)]
    Check(Check),
    /// Write the key store to one file that the same passphrase or key file opens
    ///
    /// The file is complete and was opened again when this succeeds; a file that is there is not
    /// written over. It can be made while volumes are mounted. Whoever has it still needs a secret
    /// that opened the key store when it was made.
    ///
    /// With --auto the backup is made now and kept: no new master key, no new version of one and no
    /// new passphrase is used before it is in the backup. If the backup cannot be written, such
    /// commands fail with exit code 29 and change nothing; other changes follow when they can.
    ///
    /// Exit codes: 27 the file exists, 18 no space left, 28 permission denied, 30 the file written
    /// is not the one seen from here.
    #[command(verbatim_doc_comment)]
    Backup(Backup),
    /// Put the key store back from a backup
    ///
    /// Everything is checked before anything is changed. A key store that is there is replaced only
    /// with --force, and kept as store.redb.replaced-N beside the new one. No process may have it
    /// open. No backup is kept automatically afterwards.
    ///
    /// Exit codes: 13 wrong passphrase, 22 the key store is in use, 27 there is a key store already,
    /// 30 the file is no backup or damaged, 31 the key store has key versions that the backup lacks.
    #[command(verbatim_doc_comment)]
    Restore(Restore),
    /// Print what a person needs to get at the data in a year, to be kept on paper
    ///
    /// It holds no secret, unless --with-recovery-key adds one: a new unlock slot, whose key is
    /// printed this once. Each of its lines has a checksum, so that a typing error is found. It
    /// opens the key store, and backups that are made from now on, with --recovery-key-file or typed
    /// in place of the passphrase.
    #[command(verbatim_doc_comment)]
    RecoveryKit(RecoveryKit),
    /// Change what opens the key store
    ///
    /// By default the secret that is given, or asked for, is replaced by a new one. Backups made
    /// before still open with the old one; the backup that is kept follows. It can be done while
    /// volumes are mounted, and needs a present secret even then.
    ///
    /// Exit codes: 13 wrong passphrase, 24 no new passphrase was given, 2 no such slot or the last.
    #[command(verbatim_doc_comment)]
    Passphrase(Passphrase),
}

/// Arguments of `store check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Check this backup against the key store, instead of the one that is kept
    #[arg(long, value_name = "FILE")]
    pub(super) backup: Option<PathBuf>,
}

/// Arguments of `store backup`.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file to write, on another disk than the key store
    #[arg(required_unless_present = "no_auto")]
    pub(super) file: Option<PathBuf>,
    /// Keep the backup up to date from now on
    #[arg(long)]
    pub(super) auto: bool,
    /// Keep no backup any more; the file stays as it is
    #[arg(long, conflicts_with_all = ["auto", "file", "force"])]
    pub(super) no_auto: bool,
    /// Write over a file that is there
    #[arg(long)]
    pub(super) force: bool,
}

/// Arguments of `store restore`.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    pub(super) file: PathBuf,
    /// Replace a key store that is there, and keep it aside
    #[arg(long)]
    pub(super) force: bool,
}

/// Arguments of `store recovery-kit`.
#[derive(Debug, Args)]
pub(super) struct RecoveryKit {
    /// Make a recovery key and print it with the rest
    #[arg(long)]
    pub(super) with_recovery_key: bool,
}

/// Arguments of `store passphrase`.
#[derive(Debug, Args)]
pub(super) struct Passphrase {
    /// Let the new one open the key store beside the present one
    #[arg(long, conflicts_with = "remove")]
    pub(super) add: bool,
    /// Remove the unlock slot of this number; 'kmsfs store info' lists them
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["new_passphrase_file", "new_key_file"])]
    pub(super) remove: Option<u32>,
    /// Read the new passphrase from the first line of FILE
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    pub(super) new_passphrase_file: Option<PathBuf>,
    /// Let the contents of FILE, 32 bytes or more, open the key store
    #[arg(long, value_name = "FILE")]
    pub(super) new_key_file: Option<PathBuf>,
}
