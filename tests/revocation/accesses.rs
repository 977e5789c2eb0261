//! What a program sees that was using a file in some way when the file's key went away, for every way
//! and for each way that a key goes; and that a file of another key beside it is never disturbed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::pipe::SpliceFlags;

use crate::common::child::{self, Child, Role};
use crate::common::{RaiseOnDrop, Ran, World};

const LEN: usize = 40_000;
/// `O_DIRECT` wants aligned memory and lengths.
const BLOCK: usize = 4096;

/// What a program sees.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Works,
    Fails(i32),
    Signal(i32),
}

pub(super) const REVOKED: Seen = Seen::Fails(libc::EKEYREVOKED);
const FAULT: Seen = Seen::Signal(libc::SIGBUS);

/// How a key goes away.
#[derive(Debug, Clone, Copy)]
enum Way {
    Disable,
    ScheduleDeletion,
    DeleteMaterial,
    Expire,
}

impl Way {
    const ALL: [Self; 4] = [Self::Disable, Self::ScheduleDeletion, Self::DeleteMaterial, Self::Expire];

    /// What calls fail with afterwards.
    fn errno(self) -> i32 {
        match self {
            Self::Disable | Self::ScheduleDeletion => libc::EKEYREVOKED,
            Self::DeleteMaterial | Self::Expire => libc::EKEYEXPIRED,
        }
    }

    fn go(self, world: &World, key: &str, dir: &Path) {
        match self {
            Self::Disable => _ = world.run(&["key", "disable", key, "--yes"]),
            Self::ScheduleDeletion => _ = world.run(&["key", "schedule-deletion", key, "--yes"]),
            Self::DeleteMaterial => _ = world.run(&["key", "delete-material", key, "--yes"]),
            Self::Expire => {
                // Making the key that the material is wrapped with takes a busy machine its time.
                let imported = [2, 10, 50].into_iter().any(|seconds| {
                    let soon = Timestamp::now() + SignedDuration::from_secs(seconds);
                    try_import(world, &["--expires", &soon.to_string()]).code == 0
                });
                assert!(imported);
                // Nobody calls the service: its own clock takes the key away.
                let file = open(&dir.join("writing"));
                crate::common::wait_until("the material has expired", || {
                    seen(file.read_exact_at(&mut [0; 1], 0)) == Seen::Fails(self.errno())
                });
            }
        }
    }

    fn come_back(self, world: &World, key: &str) {
        match self {
            Self::Disable => {}
            Self::ScheduleDeletion => _ = world.run(&["key", "cancel-deletion", key]),
            Self::DeleteMaterial | Self::Expire => return import(world, &[]),
        }
        world.run(&["key", "enable", key]);
    }
}

fn import(world: &World, options: &[&str]) {
    assert_eq!(try_import(world, options).code, 0);
}

/// Imports the material of `alias/secret`, which is the same each time.
fn try_import(world: &World, options: &[&str]) -> Ran {
    let material = world.path("material");
    fs::write(&material, [0x5a; 32]).unwrap();
    let file = material.to_str().unwrap();
    world.try_run(&[&["key", "import", "file", "alias/secret", file], options].concat())
}

/// A use of a file that began before the key goes.
pub(super) struct Use {
    pub(super) what: &'static str,
    /// Goes on with it afterwards.
    pub(super) go_on: Box<dyn FnOnce() -> Seen>,
    /// What it then has to see.
    pub(super) expected: Seen,
}

fn seen<T>(result: Result<T, impl Into<io::Error>>) -> Seen {
    match result {
        Ok(_) => Seen::Works,
        Err(error) => Seen::Fails(error.into().raw_os_error().unwrap()),
    }
}

pub(super) fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Every use, of files of its own in `dir`; `beside` is a file under another key.
pub(super) fn uses(dir: &Path, beside: &Path) -> Vec<Use> {
    let mut uses = Vec::new();
    let mut file =
        |what: &'static str, expected: Seen, begin: &dyn Fn(PathBuf) -> Box<dyn FnOnce() -> Seen>| {
            let path = dir.join(what.replace(' ', "-"));
            fs::write(&path, vec![7; LEN]).unwrap();
            uses.push(Use { what, go_on: begin(path), expected });
        };
    file("reading what is cached", REVOKED, &|path| {
        let file = open(&path);
        (&file).read_exact(&mut [0; LEN]).unwrap();
        Box::new(move || seen(file.read_exact_at(&mut [0; 100], 5000)))
    });
    file("reading what was never read", REVOKED, &|path| {
        let file = open(&path);
        Box::new(move || seen(file.read_exact_at(&mut [0; 100], 30_000)))
    });
    file("reading directly", REVOKED, &|path| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        let read = move || {
            let mut memory = vec![0; 2 * BLOCK];
            let at = memory.as_ptr().align_offset(BLOCK);
            file.read_exact_at(&mut memory[at..at + BLOCK], 0)
        };
        read().unwrap();
        Box::new(move || seen(read()))
    });
    file("writing", REVOKED, &|path| {
        let file = open(&path);
        file.write_all_at(b"before", 0).unwrap();
        Box::new(move || seen(file.write_all_at(b"after", 0)))
    });
    file("appending", REVOKED, &|path| {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"before").unwrap();
        Box::new(move || seen(file.write_all(b"after")))
    });
    file("truncating", REVOKED, &|path| {
        let file = open(&path);
        Box::new(move || seen(file.set_len(10)))
    });
    file("truncating by name", REVOKED, &|path| {
        Box::new(move || seen(OpenOptions::new().write(true).truncate(true).open(path)))
    });
    file("punching a hole", REVOKED, &|path| {
        let file = open(&path);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Box::new(move || seen(rustix::fs::fallocate(&file, flags, 0, 8192)))
    });
    file("sending", REVOKED, &|path| {
        let file = open(&path);
        let sink = tempfile::tempfile().unwrap();
        rustix::fs::sendfile(&sink, &file, None, 100).unwrap();
        Box::new(move || seen(rustix::fs::sendfile(&sink, &file, None, 100)))
    });
    file("splicing", REVOKED, &|path| {
        let file = open(&path);
        let (out, into) = rustix::pipe::pipe().unwrap();
        let splice = move || {
            let flags = SpliceFlags::empty();
            let spliced = rustix::pipe::splice(&file, Some(&mut 0), &into, None, 100, flags)?;
            rustix::io::read(&out, &mut [0; 100][..spliced])
        };
        splice().unwrap();
        Box::new(move || seen(splice()))
    });
    let target = beside.to_owned();
    file("being copied", REVOKED, &|path| {
        let (file, target) = (open(&path), target.clone());
        Box::new(move || {
            let copy = match OpenOptions::new().write(true).create(true).truncate(false).open(target) {
                Ok(copy) => copy,
                Err(error) => return seen::<()>(Err(error)),
            };
            seen(rustix::fs::copy_file_range(
                file.as_fd(),
                None,
                copy.as_fd(),
                Some(&mut LEN.try_into().unwrap()),
                100,
            ))
        })
    });
    file("opening", REVOKED, &|path| Box::new(move || seen(File::open(path))));
    file("opening by a second name", REVOKED, &|path| {
        let second = path.with_extension("second");
        fs::hard_link(&path, &second).unwrap();
        let held = open(&path);
        Box::new(move || {
            drop(held);
            seen(File::open(second))
        })
    });
    file("reading after a rename", REVOKED, &|path| {
        let file = open(&path);
        Box::new(move || {
            fs::rename(&path, path.with_extension("renamed")).unwrap();
            seen(file.read_exact_at(&mut [0; 100], 0))
        })
    });
    file("reading after an unlink", REVOKED, &|path| {
        let file = open(&path);
        fs::remove_file(&path).unwrap();
        Box::new(move || seen(file.read_exact_at(&mut [0; 100], 0)))
    });
    file("looking at it", Seen::Works, &|path| {
        let file = open(&path);
        Box::new(move || seen(file.metadata().and_then(|_| fs::symlink_metadata(path))))
    });
    file("flushing what was written", Seen::Works, &|path| {
        let file = open(&path);
        file.write_all_at(b"before", 0).unwrap();
        Box::new(move || seen(file.sync_all()))
    });
    for (what, role, expected) in [
        ("a shared mapping", "shared", FAULT),
        ("a private mapping", "private", FAULT),
        ("a private page that was written to", "copied", Seen::Works),
    ] {
        file(what, expected, &|path| {
            let mut child = Child::start(role, &path);
            assert_eq!(child.hear(), "mapped");
            Box::new(move || {
                child.tell("touch");
                child.end().signal().map_or(Seen::Works, Seen::Signal)
            })
        });
    }
    uses
}

/// Maps a file, says so, and touches the mapping when told.
fn map(path: &Path, flags: MapFlags, write: bool) {
    let file = open(path);
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping of a file that is longer; only volatile accesses are made to it.
    let mapped = unsafe { mmap(std::ptr::null_mut(), BLOCK, protection, flags, &file, 0) };
    let byte: *mut u8 = mapped.unwrap().cast();
    // SAFETY: within the mapping.
    assert_eq!(unsafe { byte.read_volatile() }, 7);
    if write {
        // SAFETY: within the mapping.
        unsafe { byte.write_volatile(b'M') };
    }
    child::say("mapped");
    child::listen();
    // SAFETY: within the mapping; a fault ends this process, as it may be meant to.
    unsafe { byte.read_volatile() };
}

/// What the test's child processes do.
pub(crate) const ROLES: [Role; 3] = [
    ("shared", |path| map(path, MapFlags::SHARED, true)),
    ("private", |path| map(path, MapFlags::PRIVATE, false)),
    ("copied", |path| map(path, MapFlags::PRIVATE, true)),
];

/// Uses files of another key until `done`; every call has to succeed.
fn use_beside(dir: &Path, done: &AtomicBool, rounds: &AtomicU64) {
    let path = dir.join("beside");
    let held = open(&path);
    while !done.load(Ordering::SeqCst) {
        let round = rounds.fetch_add(1, Ordering::SeqCst);
        let bytes = vec![round as u8; 9000];
        held.write_all_at(&bytes, (round % 5) * 3000).unwrap();
        let mut read = vec![0; 9000];
        held.read_exact_at(&mut read, (round % 5) * 3000).unwrap();
        assert!(read == bytes, "round {round}");
        let mut again = open(&path);
        again.read_exact(&mut [0; 100]).unwrap();
        held.sync_data().unwrap();
        let renamed = dir.join("beside.renamed");
        fs::rename(&path, &renamed).unwrap();
        fs::rename(&renamed, &path).unwrap();
    }
}

#[test]
fn every_use_of_a_file_ends_with_its_key_and_no_other_is_disturbed() {
    let created = super::two_keys_with("every_use_of_a_file_ends_with_its_key", |world| {
        world.run(&["key", "create", "--alias", "secret", "--origin", "EXTERNAL"]);
        import(world, &[]);
    });
    let Some((world, mount)) = created else { return };
    let dir = mount.join("secret");
    // A directory of mixed keys.
    fs::write(dir.join("beside"), vec![1; 30_000]).unwrap();
    fs::write(dir.join("copy"), "").unwrap();
    for name in ["beside", "copy"] {
        world.run(&["file", "set-key", "alias/default", dir.join(name).to_str().unwrap()]);
    }
    let key = world.json(&["key", "describe", "alias/secret"])["KeyId"].as_str().unwrap().to_owned();
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let raise = RaiseOnDrop(&done);
        let beside = scope.spawn(|| use_beside(&dir, &done, &rounds));
        for way in Way::ALL {
            let begun = uses(&dir, &dir.join("copy"));
            let before = rounds.load(Ordering::SeqCst);
            way.go(&world, &key, &dir);
            let wrong: Vec<String> = begun
                .into_iter()
                .filter_map(|begun| {
                    let seen = (begun.go_on)();
                    let (what, revoked) = (begun.what, begun.expected == REVOKED);
                    let expected = if revoked { Seen::Fails(way.errno()) } else { begun.expected };
                    (seen != expected).then(|| format!("{what}: {seen:?}, not {expected:?}"))
                })
                .collect();
            assert!(wrong.is_empty(), "{way:?}: {wrong:#?}");
            crate::common::wait_until("the other key's file was used meanwhile", || {
                beside.is_finished() || rounds.load(Ordering::SeqCst) > before + 2
            });
            way.come_back(&world, &key);
            assert_eq!(fs::read(dir.join("writing")).unwrap()[..6], *b"before");
            assert_eq!(fs::read(dir.join("a-shared-mapping")).unwrap()[0], b'M');
            fs::remove_file(dir.join("opening-by-a-second-name.second")).unwrap();
        }
        drop(raise);
        beside.join().unwrap();
    });
}
