//! Attributes, kinds and times between `fuser`'s types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};

use crate::fs::{Attr, FileKind, Requester, SetTime, Time};

/// Answers a look-up of a name that is not there: the kernel takes inode 0 for none.
pub(super) const ABSENT: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn requester(req: &Request) -> Requester {
    Requester { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

pub(super) fn to_fuse(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

fn to_system_time(time: Time) -> SystemTime {
    let whole = match u64::try_from(time.seconds) {
        Ok(after) => UNIX_EPOCH.checked_add(Duration::from_secs(after)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(time.seconds.unsigned_abs())),
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into())))
        .unwrap_or(UNIX_EPOCH)
}

pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Omit,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(at)) => SetTime::At(from_fuse_time(at)),
    }
}

/// Undoes what `fuser` makes of the kernel's time. Before 1970 it subtracts the nanoseconds too,
/// which the kernel meant to be added: the distance still has both numbers as the kernel sent
/// them.
fn from_fuse_time(at: SystemTime) -> Time {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { seconds: after.as_secs().cast_signed(), nanoseconds: after.subsec_nanos() },
        Err(before) => {
            let distance = before.duration();
            Time { seconds: -distance.as_secs().cast_signed(), nanoseconds: distance.subsec_nanos() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for (seconds, nanoseconds) in [(0, 0), (1, 5), (-2, 800_000_000), (-1, 0), (1 << 33, 999_999_999)] {
            let time = Time { seconds, nanoseconds };
            // As fuser would send it: seconds towards the past, nanoseconds added.
            let sent = to_system_time(time);
            let shown = match sent.duration_since(UNIX_EPOCH) {
                Ok(after) => (after.as_secs().cast_signed(), after.subsec_nanos()),
                Err(e) if e.duration().subsec_nanos() == 0 => (-e.duration().as_secs().cast_signed(), 0),
                Err(e) => {
                    (-e.duration().as_secs().cast_signed() - 1, 1_000_000_000 - e.duration().subsec_nanos())
                }
            };
            assert_eq!(shown, (seconds, nanoseconds));
            // As fuser would receive it.
            let received = if seconds >= 0 {
                UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanoseconds)
            } else {
                UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanoseconds)
            };
            assert_eq!(from_fuse_time(received), time);
        }
    }
}
