//! `-o ro` on a volume that could be written.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, removexattr, setxattr};
use rustix::mount::MountFlags;

use crate::common::{World, tree};

type Listing = (BTreeMap<PathBuf, (u32, Vec<u8>)>, BTreeMap<PathBuf, (i64, i64, i64, i64, u64)>);

/// Everything in a directory, with modes, contents, and the times of changes.
fn listing(dir: &Path) -> Listing {
    let files = tree(dir);
    let times = files.keys().map(|path| {
        let m = path.symlink_metadata().unwrap();
        (path.clone(), (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.nlink()))
    });
    let times = times.collect();
    (files, times)
}

/// A change that can be tried below a directory.
type Change = (&'static str, fn(&Path) -> io::Result<()>);

/// Every kind of change that a filesystem knows.
const CHANGES: [Change; 18] = [
    ("create", |d| File::create_new(d.join("new")).map(drop)),
    ("open for writing", |d| File::options().write(true).open(d.join("file")).map(drop)),
    ("open for appending", |d| File::options().append(true).open(d.join("file")).map(drop)),
    ("truncate on opening", |d| File::create(d.join("file")).map(drop)),
    ("mkdir", |d| std::fs::create_dir(d.join("new"))),
    ("rmdir", |d| std::fs::remove_dir(d.join("dir/empty"))),
    ("unlink", |d| std::fs::remove_file(d.join("file"))),
    ("rename", |d| std::fs::rename(d.join("file"), d.join("new"))),
    ("rename over", |d| std::fs::rename(d.join("file"), d.join("dir/other"))),
    ("link", |d| std::fs::hard_link(d.join("file"), d.join("new"))),
    ("symlink", |d| symlink("file", d.join("new"))),
    ("mkfifo", |d| Ok(mknodat(CWD, d.join("new"), FileType::Fifo, Mode::from(0o600), 0)?)),
    ("chmod", |d| std::fs::set_permissions(d.join("file"), Permissions::from_mode(0o600))),
    ("chown", |d| std::os::unix::fs::chown(d.join("file"), Some(1), Some(1))),
    ("utimes", |d| File::open(d.join("file"))?.set_modified(std::time::SystemTime::UNIX_EPOCH)),
    ("setxattr", |d| Ok(setxattr(d.join("file"), "user.new", b"v", XattrFlags::empty())?)),
    ("removexattr", |d| Ok(removexattr(d.join("file"), "user.old")?)),
    ("assign a key", |d| {
        Ok(setxattr(d.join("dir"), "user.kmsfs.key", b"alias/default", XattrFlags::empty())?)
    }),
];

fn prepared(test: &str) -> Option<World> {
    let world = World::new(test)?;
    let mnt = world.volume("volume");
    std::fs::create_dir_all(mnt.join("dir/empty")).unwrap();
    std::fs::write(mnt.join("file"), vec![1; 100_000]).unwrap();
    std::fs::write(mnt.join("dir/other"), "other").unwrap();
    symlink("file", mnt.join("link")).unwrap();
    setxattr(mnt.join("file"), "user.old", b"v", XattrFlags::empty()).unwrap();
    world.umount(&mnt);
    Some(world)
}

/// Every change is refused, and everything can be read.
#[track_caller]
fn refuses_all(mnt: &Path) {
    for (name, change) in CHANGES {
        let refused = change(mnt).map_err(|error| error.raw_os_error());
        assert_eq!(refused, Err(Some(libc::EROFS)), "{name}");
    }
    assert_eq!(std::fs::read(mnt.join("link")).unwrap(), vec![1; 100_000]);
    assert_eq!(std::fs::read(mnt.join("dir/other")).unwrap(), b"other");
    assert_eq!(std::fs::read_dir(mnt).unwrap().count(), 3);
}

#[test]
fn a_read_only_mount_refuses_every_change_and_writes_nothing() {
    let Some(world) = prepared("a_read_only_mount_refuses_every_change_and_writes_nothing") else { return };
    let before = listing(&world.path("volume"));
    let mnt = world.mount("volume", &["-o", "ro"]);
    refuses_all(&mnt);
    // Also when the kernel lets requests through.
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount_remount(&mnt, flags, c"").unwrap();
    refuses_all(&mnt);
    world.umount(&mnt);
    world.wait_for_daemons();
    assert!(listing(&world.path("volume")) == before, "the backing directory has changed");
}

#[test]
fn several_read_only_mounts_share_a_volume() {
    let Some(world) = prepared("several_read_only_mounts_share_a_volume") else { return };
    let before = listing(&world.path("volume"));
    let mounts = ["one", "two", "three"].map(|name| {
        std::fs::create_dir(world.path(name)).unwrap();
        world.run(&["mount", "volume", name, "-o", "ro"]);
        world.path(name)
    });
    mounts.iter().for_each(|mnt| refuses_all(mnt));
    // One for writing has no place beside them, until the last is gone.
    for mnt in &mounts {
        world.try_run(&["mount", "volume", "volume.mnt"]).fails(12, &["mounted already"]);
        world.umount(mnt);
    }
    assert!(listing(&world.path("volume")) == before, "the backing directory has changed");
    let mnt = world.mount("volume", &[]);
    std::fs::write(mnt.join("file"), "written").unwrap();
}
