//! Where a mount differs from ext4: each difference is an error with a code, and changes nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use common::pair::{Pair, outcome};
use common::sys::FileHandle;
use rustix::fs::{AtFlags, CWD, IFlags, RenameFlags, SeekFrom, StatxFlags};
use rustix::mount::{MountFlags, UnmountFlags};

fn file(pair: &Pair) -> (std::path::PathBuf, File) {
    let path = pair.mount.join("file");
    fs::write(&path, "contents").unwrap();
    (path.clone(), File::options().read(true).write(true).open(&path).unwrap())
}

#[test]
fn whiteouts_are_refused() {
    let Some(pair) = Pair::new("whiteouts_are_refused", "") else { return };
    let (path, _) = file(&pair);
    let to = pair.mount.join("new");
    let refused = rustix::fs::renameat_with(CWD, &path, CWD, &to, RenameFlags::WHITEOUT);
    assert_eq!(outcome(refused), Err(libc::EINVAL));
    assert_eq!(fs::read(&path).unwrap(), b"contents");
    assert_eq!(fs::read_dir(&pair.mount).unwrap().count(), 1);
}

#[test]
fn files_without_any_name_are_refused() {
    let Some(pair) = Pair::new("files_without_any_name_are_refused", "") else { return };
    let refused = File::options().write(true).custom_flags(libc::O_TMPFILE).open(&pair.mount);
    assert_eq!(outcome(refused), Err(libc::EOPNOTSUPP));
    assert_eq!(fs::read_dir(&pair.mount).unwrap().count(), 0);
}

#[test]
fn shared_extents_are_refused() {
    let Some(pair) = Pair::new("shared_extents_are_refused", "") else { return };
    let (_, file) = file(&pair);
    let target = File::create(pair.mount.join("target")).unwrap();
    assert_eq!(outcome(rustix::fs::ioctl_ficlone(&target, &file)), Err(libc::EOPNOTSUPP));
    assert_eq!(target.metadata().unwrap().len(), 0);
}

#[test]
fn inode_flags_are_refused() {
    let Some(pair) = Pair::new("inode_flags_are_refused", "") else { return };
    let (path, file) = file(&pair);
    for handle in [&file, &File::open(&pair.mount).unwrap()] {
        assert_eq!(outcome(rustix::fs::ioctl_getflags(handle)), Err(libc::ENOTTY));
        assert_eq!(outcome(rustix::fs::ioctl_setflags(handle, IFlags::IMMUTABLE)), Err(libc::ENOTTY));
    }
    fs::remove_file(path).unwrap();
}

#[test]
fn birth_times_are_not_told() {
    let Some(pair) = Pair::new("birth_times_are_not_told", "") else { return };
    let (path, _) = file(&pair);
    let told = rustix::fs::statx(CWD, &path, AtFlags::empty(), StatxFlags::ALL | StatxFlags::BTIME).unwrap();
    assert_eq!(told.stx_mask & StatxFlags::BTIME.bits(), 0);
}

#[test]
fn positions_reach_further_than_files() {
    let Some(pair) = Pair::new("positions_reach_further_than_files", "") else { return };
    let (_, file) = file(&pair);
    let far = i64::MAX as u64 - 10;
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Start(far)), Ok(far));
    assert_eq!(file.read_at(&mut [0; 4], far).unwrap(), 0);
    assert_eq!(outcome(file.write_at(b"x", far)), Err(libc::EFBIG));
    assert_eq!(file.metadata().unwrap().len(), 8);
}

#[test]
fn what_is_mounted_in_the_backing_directory_is_not_entered() {
    let Some(pair) = Pair::new("what_is_mounted_in_the_backing_directory", "") else { return };
    let dir = pair.mount.join("dir");
    fs::create_dir(&dir).unwrap();
    let backing = pair.backing(&dir);
    pair.world.umount(&pair.mount);
    rustix::mount::mount("none", &backing, "tmpfs", MountFlags::empty(), None).unwrap();
    pair.world.mount("vol", &[]);
    assert_eq!(outcome(fs::metadata(&dir)), Err(libc::EXDEV));
    assert_eq!(outcome(fs::write(dir.join("file"), "x")), Err(libc::EXDEV));
    pair.world.umount(&pair.mount);
    assert_eq!(fs::read_dir(&backing).unwrap().count(), 0);
    rustix::mount::unmount(&backing, UnmountFlags::empty()).unwrap();
}

#[test]
fn locks_do_not_reach_the_backing_file() {
    let Some(pair) = Pair::new("locks_do_not_reach_the_backing_file", "") else { return };
    let (path, file) = file(&pair);
    let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, exclusive).unwrap();
    let backing = File::open(pair.backing(&path)).unwrap();
    assert_eq!(outcome(rustix::fs::flock(&backing, exclusive)), Ok(()));
}

#[test]
fn handles_as_file_servers_keep_them_do_not_outlast_the_mount() {
    let Some(pair) = Pair::new("handles_as_file_servers_keep_them", "") else { return };
    let (_, file) = file(&pair);
    let mut handle = FileHandle::of(&file).unwrap();
    drop(file);
    pair.remount();
    let refused = handle.open(&File::open(&pair.mount).unwrap());
    assert_eq!(outcome(refused), Err(libc::ESTALE));
}
