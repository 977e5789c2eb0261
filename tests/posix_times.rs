//! Times: to the nanosecond, over the whole range that the backing filesystem has, and changed by
//! exactly the operations that change them there.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use common::pair::{Pair, outcome, pattern};
use common::sys::{Mapping, fallocate};
use common::user::{ADA, BOB};
use rustix::fs::{
    AtFlags, CWD, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, utimensat,
};

/// Longer than a tick of the clock that files' times are taken from.
const TICK: Duration = Duration::from_millis(12);

fn set(path: &Path, atime: (i64, i64), mtime: (i64, i64)) -> Result<(), i32> {
    let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
    outcome(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW))
}

type Times = ((i64, i64), (i64, i64));

/// Access and modification time.
fn times(path: &Path) -> Times {
    let of = path.symlink_metadata().unwrap();
    ((of.atime(), of.atime_nsec()), (of.mtime(), of.mtime_nsec()))
}

fn ctime(path: &Path) -> (i64, i64) {
    let of = path.symlink_metadata().unwrap();
    (of.ctime(), of.ctime_nsec())
}

#[test]
fn times_are_kept_to_the_nanosecond_from_1901_to_2446() {
    let Some(pair) = Pair::new("times_are_kept_to_the_nanosecond", "") else { return };
    let seconds = [
        0,
        1,
        -1,
        -2,
        1_000_000_007,
        i32::MAX.into(),
        1 << 31,
        (1 << 31) + 1,
        i64::from(i32::MIN) + 1,
        (1 << 33) + 5,
        (1 << 34) - (1 << 31) - 2,
    ];
    let moments: Vec<(i64, i64)> =
        seconds.into_iter().flat_map(|s| [0, 1, 999_999_999, 500_000_001].map(|ns| (s, ns))).collect();
    pair.alike("utimensat", |dir| {
        fs::write(dir.join("file"), "x").unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
        symlink("nowhere", dir.join("link")).unwrap();
        let mut said = Vec::new();
        for name in ["file", "dir", "link"] {
            for pair in moments.windows(2) {
                said.push((set(&dir.join(name), pair[0], pair[1]), times(&dir.join(name))));
                assert_eq!(said.last().unwrap(), &(Ok(()), (pair[0], pair[1])), "{name}");
            }
        }
        said
    });
    // And on disk.
    let [_, dir] = pair.fresh();
    let path = |i: usize| dir.join(i.to_string());
    for (i, moment) in moments.iter().enumerate() {
        if i % 2 == 0 {
            fs::write(path(i), "x").unwrap();
        } else {
            fs::create_dir(path(i)).unwrap();
        }
        set(&path(i), *moment, *moment).unwrap();
    }
    pair.remount();
    for (i, moment) in moments.iter().enumerate() {
        assert_eq!(times(&path(i)), (*moment, *moment), "{i}");
    }
}

#[test]
fn times_beyond_the_backing_filesystems_range_end_up_as_there() {
    let Some(pair) = Pair::new("times_beyond_the_backing_filesystems_range", "") else { return };
    pair.alike("times out of range", |dir| {
        let path = dir.join("file");
        fs::write(&path, "x").unwrap();
        [i32::MIN.into(), i64::from(i32::MIN) - 1, (1 << 34) - (1 << 31) - 1, 1 << 34, 1 << 40, -(1 << 40)]
            .map(|s| {
                let done = set(&path, (s, 5), (s, 5));
                (done, times(&path))
            })
    });
}

#[test]
fn now_omitted_and_bad_times_mean_what_they_mean_elsewhere() {
    let Some(pair) = Pair::new("now_omitted_and_bad_times", "") else { return };
    pair.alike("UTIME_NOW and UTIME_OMIT", |dir| {
        let path = dir.join("file");
        fs::write(&path, "x").unwrap();
        let (now, omit, fixed) = ((0, UTIME_NOW), (0, UTIME_OMIT), (7, 7));
        let mut said = Vec::new();
        for (atime, mtime) in [
            (now, omit),
            (omit, now),
            (now, now),
            (omit, omit),
            (omit, fixed),
            (fixed, omit),
            ((0, -1), fixed),
            (fixed, (0, 1_000_000_000)),
        ] {
            set(&path, (1000, 1), (2000, 2)).unwrap();
            std::thread::sleep(TICK);
            let before = ctime(&path);
            let done = set(&path, atime, mtime);
            let is_now = |(s, ns): (i64, i64)| if s > 1_000_000_000 { (-1, -1) } else { (s, ns) };
            let (a, m) = times(&path);
            said.push((done, is_now(a), is_now(m), ctime(&path) > before));
        }
        said
    });
}

#[test]
fn who_may_set_times_is_the_kernels_decision() {
    let Some(pair) = Pair::new("who_may_set_times", "allow_other") else { return };
    pair.alike("utimensat by users", |dir| {
        let mut said = Vec::new();
        for mode in [0o666, 0o644, 0o400] {
            let path = dir.join(format!("{mode:o}"));
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(ADA.uid), Some(ADA.gid)).unwrap();
            for user in [ADA, BOB] {
                let (now, omit) = ((0, UTIME_NOW), (0, UTIME_OMIT));
                said.push(user.run(|| {
                    [((1, 1), (2, 2)), (now, now), (now, omit), (omit, omit)].map(|(a, m)| set(&path, a, m))
                }));
            }
        }
        said
    });
}

/// An operation in a directory that has `file`, `other`, the directories `sub` (empty) and `full`,
/// and the symbolic link `link`; it is given an open handle of `file`.
type Operation = (&'static str, fn(&Path, &File));

const OPERATIONS: [Operation; 32] = [
    ("nothing", |_, _| {}),
    ("write", |_, file| file.write_all_at(b"x", 0).unwrap()),
    ("write nothing", |_, file| assert_eq!(file.write_at(b"", 0).unwrap(), 0)),
    ("grow by writing", |_, file| file.write_all_at(b"x", 50_000).unwrap()),
    ("truncate", |dir, _| {
        rustix::fs::ftruncate(File::options().write(true).open(dir.join("file")).unwrap(), 3).unwrap();
    }),
    ("truncate by path", |dir, _| truncate(&dir.join("file"), 3)),
    ("truncate to the same length", |_, file| file.set_len(8000).unwrap()),
    ("truncate by path to the same length", |dir, _| truncate(&dir.join("file"), 8000)),
    ("open truncating", |dir, _| drop(File::create(dir.join("file")).unwrap())),
    ("open truncating what is empty", |dir, _| drop(File::create(dir.join("other")).unwrap())),
    ("grow by truncating", |_, file| file.set_len(9000).unwrap()),
    ("allocate", |_, file| fallocate(file, 0, 0, 20_000).unwrap()),
    ("allocate within", |_, file| fallocate(file, 0, 0, 100).unwrap()),
    ("punch", |_, file| {
        fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 100).unwrap();
    }),
    ("map and write", |_, file| {
        let mapping = Mapping::shared(file, 4096).unwrap();
        mapping.write(0, b"x");
        mapping.sync().unwrap();
    }),
    ("read", |dir, _| drop(fs::read(dir.join("file")).unwrap())),
    ("fsync", |_, file| file.sync_all().unwrap()),
    ("chmod", |dir, _| fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o604)).unwrap()),
    ("chown", |dir, _| chown(dir.join("file"), Some(1), Some(1)).unwrap()),
    ("chown to nobody else", |dir, _| chown(dir.join("file"), None, None).unwrap()),
    ("set an attribute", |dir, _| {
        rustix::fs::setxattr(dir.join("file"), "user.a", b"x", XattrFlags::empty()).unwrap();
    }),
    ("link", |dir, _| fs::hard_link(dir.join("file"), dir.join("new")).unwrap()),
    ("unlink", |dir, _| fs::remove_file(dir.join("other")).unwrap()),
    ("unlink one of two names", |dir, _| fs::remove_file(dir.join("twin")).unwrap()),
    ("rename", |dir, _| fs::rename(dir.join("file"), dir.join("renamed")).unwrap()),
    ("rename over another", |dir, _| fs::rename(dir.join("file"), dir.join("other")).unwrap()),
    ("rename into a directory", |dir, _| fs::rename(dir.join("other"), dir.join("full/moved")).unwrap()),
    ("exchange", |dir, _| {
        rustix::fs::renameat_with(CWD, dir.join("file"), CWD, dir.join("full/inner"), RenameFlags::EXCHANGE)
            .unwrap();
    }),
    ("move a directory", |dir, _| fs::rename(dir.join("sub"), dir.join("full/sub")).unwrap()),
    ("mkdir", |dir, _| fs::create_dir(dir.join("full/new")).unwrap()),
    ("rmdir", |dir, _| fs::remove_dir(dir.join("sub")).unwrap()),
    ("create", |dir, _| fs::write(dir.join("full/new"), "").unwrap()),
];

fn truncate(path: &Path, len: i64) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a string that ends with a zero byte.
    assert_eq!(unsafe { libc::truncate(path.as_ptr(), len) }, 0);
}

#[test]
fn every_operation_changes_the_times_that_it_changes_on_ext4() {
    let Some(pair) = Pair::new("every_operation_changes_the_times", "") else { return };
    for (what, operation) in OPERATIONS {
        pair.alike(what, |dir| {
            for name in ["sub", "full"] {
                fs::create_dir(dir.join(name)).unwrap();
            }
            fs::write(dir.join("file"), pattern(1, 8000)).unwrap();
            fs::write(dir.join("other"), "").unwrap();
            fs::write(dir.join("full/inner"), "").unwrap();
            fs::write(dir.join("twin-1"), "").unwrap();
            fs::hard_link(dir.join("twin-1"), dir.join("twin")).unwrap();
            symlink("file", dir.join("link")).unwrap();
            let file = File::options().read(true).write(true).open(dir.join("file")).unwrap();
            let mut names = ["", "file", "other", "sub", "full", "full/inner", "twin-1", "link"]
                .map(|name| dir.join(name))
                .to_vec();
            for path in names.iter().rev() {
                set(path, (1000, 1), (1000, 1)).unwrap();
            }
            std::thread::sleep(TICK);
            // Through handles, for names may go.
            let handles: Vec<_> = names.iter().map(|path| look(path)).collect();
            let before: Vec<_> = handles.iter().map(Look::now).collect();
            operation(dir, &file);
            let after: Vec<_> = handles.iter().map(Look::now).collect();
            // What it says now, it says later too.
            std::thread::sleep(TICK);
            file.sync_all().unwrap();
            assert_eq!(
                handles.iter().map(Look::now).collect::<Vec<_>>(),
                after,
                "{what} in {}",
                dir.display()
            );
            let changes = before.iter().zip(&after).map(|(b, a)| (a.0 != b.0, a.1 != b.1));
            let seen = names.drain(..).map(|path| path.strip_prefix(dir).unwrap().to_owned()).zip(changes);
            // Something of ours was in a directory that is removed.
            let is_removed = |path: &Path| path == Path::new("sub") && what == "rmdir";
            seen.filter(|(path, _)| !is_removed(path)).collect::<Vec<_>>()
        });
    }
}

/// Something whose times are looked at, whatever becomes of its name.
struct Look(std::os::fd::OwnedFd);

fn look(path: &Path) -> Look {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
    Look(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap())
}

impl Look {
    /// Modification and change time.
    fn now(&self) -> ((i64, u64), (i64, u64)) {
        let stat = rustix::fs::fstat(&self.0).unwrap();
        ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec))
    }
}

#[test]
fn modification_times_set_while_a_file_is_written_are_kept() {
    let Some(pair) = Pair::new("modification_times_set_while_a_file_is_written", "") else { return };
    let path = pair.mount.join("file");
    let file = File::create(&path).unwrap();
    file.write_all_at(&pattern(1, 100_000), 0).unwrap();
    // As cp -p and tar do: written, not flushed, and given a time.
    set(&path, (5, 5), (-1_000_000, 123_456_789)).unwrap();
    drop(file);
    assert_eq!(times(&path).1, (-1_000_000, 123_456_789));
    rustix::fs::sync();
    assert_eq!(times(&path).1, (-1_000_000, 123_456_789));
    let mut contents = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut contents).unwrap();
    pair.remount();
    assert_eq!(times(&path).1, (-1_000_000, 123_456_789));
    assert!(contents == pattern(1, 100_000));
}
