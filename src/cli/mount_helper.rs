//! Being called by mount(8): as its helper `/sbin/mount.fuse.kmsfs`, or by fuse3's `mount.fuse3`,
//! which runs `kmsfs VOLUME MOUNTPOINT -o OPTIONS`. Both become `kmsfs mount`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use super::args::{Arguments, Command, FromMount};
use super::exit::{CliError, Code};

/// Exit codes of mount(8), which passes its helper's on.
pub(super) const WRONG_USAGE: u8 = 1;
const MOUNT_FAILURE: u8 = 32;
/// Types of filesystem that mount(8) may name.
const TYPES: [&str; 3] = ["fuse.kmsfs", "kmsfs", "fuse"];

/// Mount a kmsfs volume, for mount(8)
///
/// Options are those of 'kmsfs mount'. As with every filesystem that mount(8) mounts, device nodes
/// and set-ID bits count unless -o nodev,nosuid says otherwise.
#[derive(Debug, Parser)]
#[command(name = "mount.fuse.kmsfs", version)]
struct HelperArguments {
    /// The volume
    volume: PathBuf,
    /// An empty directory
    mountpoint: PathBuf,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPT,...")]
    options: Vec<OsString>,
    /// Pass over unknown options
    #[arg(short)]
    sloppy: bool,
    /// Check everything, but do not mount
    #[arg(short)]
    fake: bool,
    /// Nothing: there is no mtab
    #[arg(short = 'n')]
    _no_mtab: bool,
    /// Say more
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Mount read-only
    #[arg(short, overrides_with = "writable")]
    read_only: bool,
    /// Mount for writing
    #[arg(short, overrides_with = "read_only")]
    writable: bool,
    /// Type of filesystem: fuse.kmsfs
    #[arg(short = 't', value_name = "TYPE", value_parser = TYPES)]
    _type: Option<String>,
    /// Not supported: run mount in that namespace
    #[arg(short = 'N', value_name = "NAMESPACE", value_parser = refuse_namespace)]
    _namespace: Option<String>,
}

/// The arguments in the place of those that mount(8) gave; `None` if a person typed them.
pub(super) fn arguments(given: &[OsString]) -> Option<Result<Arguments, clap::Error>> {
    is_from_mount(given).then(|| {
        let helper = HelperArguments::try_parse_from(given)?;
        let mut arguments = Arguments::try_parse_from(helper.command_line())?;
        if let Command::Mount(mount) = &mut arguments.command {
            mount.from_mount = Some(FromMount { sloppy: helper.sloppy, fake: helper.fake });
        }
        Ok(arguments)
    })
}

/// What mount(8) expects of a helper that failed.
pub(super) fn exit_code(error: &CliError) -> ExitCode {
    ExitCode::from(if error.code() == Code::Usage as u8 { WRONG_USAGE } else { MOUNT_FAILURE })
}

/// Whether the program was called as `mount.` something, or with a path for a command.
fn is_from_mount(given: &[OsString]) -> bool {
    let program = given.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    program.as_encoded_bytes().starts_with(b"mount.")
        || given.get(1).is_some_and(|first| Path::new(first).is_absolute())
}

impl HelperArguments {
    /// The same as a command line of this program.
    fn command_line(&self) -> Vec<OsString> {
        // As mount.fuse3 has it, whose default cannot be told from a wish.
        let mut options = OsString::from("dev,suid");
        for list in &self.options {
            options.push(",");
            options.push(list);
        }
        for (wanted, option) in [(self.read_only, ",ro"), (self.writable, ",rw")] {
            if wanted {
                options.push(option);
            }
        }
        let mut line: Vec<OsString> = ["kmsfs", "mount"].map(OsString::from).into();
        line.extend((0..self.verbose).map(|_| OsString::from("--verbose")));
        line.extend([OsStr::new("--options"), &options, OsStr::new("--")].map(OsStr::to_owned));
        line.extend([&self.volume, &self.mountpoint].map(|path| path.clone().into_os_string()));
        line
    }
}

fn refuse_namespace(_: &str) -> Result<String, String> {
    Err("another mount namespace cannot be mounted in from here; run mount in it with nsenter(1)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Result<Arguments, clap::Error>> {
        let given: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        arguments(&given)
    }

    fn options(line: &str) -> String {
        match parse(line).unwrap().unwrap().command {
            Command::Mount(mount) => mount.options.join(","),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_ways_of_being_called_are_recognized() {
        assert!(parse("/sbin/mount.fuse.kmsfs /v /m -o rw").unwrap().is_ok());
        assert!(parse("kmsfs /v /m -o rw").unwrap().is_ok());
        assert!(parse("kmsfs mount /v /m").is_none());
        assert!(parse("kmsfs").is_none());
    }

    #[test]
    fn flags_become_options() {
        assert_eq!(options("mount.fuse.kmsfs /v /m"), "dev,suid");
        let all = "mount.fuse.kmsfs /v /m -s -n -v -r -o nodev,key_file=/k -t fuse.kmsfs";
        assert_eq!(options(all), "dev,suid,nodev,key_file=/k,ro");
        assert_eq!(options("mount.fuse.kmsfs /v /m -sfnw -o ro"), "dev,suid,ro,rw");
    }

    #[test]
    fn another_type_and_another_namespace_are_refused() {
        assert!(parse("mount.fuse.kmsfs /v /m -t fuse.sshfs").unwrap().is_err());
        let refused = parse("mount.fuse.kmsfs /v /m -N /proc/1/ns/mnt").unwrap().unwrap_err();
        assert!(refused.to_string().contains("nsenter"), "{refused}");
    }
}
