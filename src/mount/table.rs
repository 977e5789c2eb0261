//! The kernel's table of mounts, and taking one off it.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;

use super::SUBTYPE;

/// A mounted kmsfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The volume's backing directory.
    pub source: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}

/// Every kmsfs that this process can see mounted.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    mounts_of("self")
}

/// The kmsfs mounted at `mountpoint`, the topmost if there are several.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn find_mount(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rfind(|entry| entry.mountpoint == mountpoint))
}

/// Whether the volume in `source` is mounted, as far as a process sees. `None` if there is no such
/// process.
pub fn is_mounted_for(pid: u32, source: &Path) -> Option<bool> {
    let mounts = mounts_of(&pid.to_string()).ok()?;
    Some(mounts.iter().any(|entry| entry.source == source))
}

/// Unmounts, with `fusermount3` where this process may not do it itself.
///
/// # Errors
/// As umount(2), `EBUSY` above all; what `fusermount3` says.
pub fn unmount(mountpoint: &Path) -> io::Result<()> {
    unmount_with(mountpoint, UnmountFlags::NOFOLLOW, "-u")
}

/// Takes a mount out of the tree at once; it ends when the last program that uses it does.
///
/// # Errors
/// As umount(2); what `fusermount3` says.
pub(super) fn detach(mountpoint: &Path) -> io::Result<()> {
    unmount_with(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW, "-uz")
}

/// Whether an automounter watches `mountpoint` and nothing is mounted there yet. Whoever looks into it
/// then waits for the mount, this process included.
pub fn is_awaited(mountpoint: &Path) -> bool {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let last = table.split(|&b| b == b'\n').rfind(|line| {
        let place = line.split(|&b| b == b' ').nth(4);
        place.is_some_and(|place| unescape(place) == mountpoint)
    });
    let kind = |line: &[u8]| {
        let mut fields = line.split(|&b| b == b' ').skip_while(|field| *field != b"-").skip(1);
        fields.next() == Some(b"autofs")
    };
    last.is_some_and(kind)
}

/// A process that has the filesystem with a device number mounted, in a mount namespace of its own
/// perhaps, and where it does; as far as this process may look.
pub fn elsewhere(device: u64) -> Option<(u32, PathBuf)> {
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.into_iter().find_map(|process| {
        let table = std::fs::read(format!("/proc/{process}/mountinfo")).ok()?;
        let place = table.split(|&b| b == b'\n').find_map(|line| {
            let mut fields = line.split(|&b| b == b' ').skip(2);
            (fields.next()? == device.as_bytes()).then(|| fields.nth(1)).flatten().map(unescape)
        });
        place.map(|place| (process, place))
    })
}

/// Where the filesystem with a device number is mounted now, the latest first. A place where
/// something else is mounted over it is left out, as unmounting would hit that.
pub(super) fn places(device: u64) -> io::Result<Vec<PathBuf>> {
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut topmost: Vec<(PathBuf, bool)> = Vec::new();
    for line in table.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b' ').skip(2);
        let (Some(number), Some(mountpoint)) = (fields.next(), fields.nth(1)) else { continue };
        let mountpoint = unescape(mountpoint);
        topmost.retain(|(below, _)| *below != mountpoint);
        topmost.push((mountpoint, number == device.as_bytes()));
    }
    Ok(topmost.into_iter().rev().filter_map(|(place, ours)| ours.then_some(place)).collect())
}

fn unmount_with(mountpoint: &Path, flags: UnmountFlags, helper_flag: &str) -> io::Result<()> {
    match rustix::mount::unmount(mountpoint, flags) {
        Err(rustix::io::Errno::PERM) => {}
        done => return Ok(done?),
    }
    let output = Command::new("fusermount3").arg(helper_flag).arg("--").arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().trim_start_matches("fusermount3: ").to_owned()))
}

fn mounts_of(process: &str) -> io::Result<Vec<MountEntry>> {
    let table = std::fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(table.split(|&b| b == b'\n').filter_map(parse_line).collect())
}

/// One line of proc_pid_mountinfo(5): fields by spaces, the optional ones ended by a hyphen.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let mountpoint = unescape(fields.nth(4)?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = fields.next()?;
    let source = unescape(fields.next()?);
    (kind == format!("fuse.{SUBTYPE}").as_bytes()).then_some(MountEntry { source, mountpoint })
}

/// Undoes the octal escapes of white space and backslashes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_spaces_and_optional_fields() {
        let line = br"51 28 0:44 / /mnt/a\040b rw,nosuid shared:7 master:2 - fuse.kmsfs /srv/c\134d rw";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(entry.source, Path::new(r"/srv/c\d"));
    }

    #[test]
    fn other_filesystems_and_nonsense_are_passed_over() {
        for line in [&b"51 28 0:44 / /mnt rw - ext4 /dev/vda rw"[..], b"", b"x", b"1 2 3 4 5 6 -"] {
            assert_eq!(parse_line(line), None);
        }
    }
}
