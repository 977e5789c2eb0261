//! Every way of using a file that begins before its key goes away, and what it needs the key for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::pipe::SpliceFlags;

use crate::common::child::{self, Child, Role};

const LEN: usize = 40_000;
/// `O_DIRECT` wants aligned memory and lengths.
const BLOCK: usize = 4096;

/// What a program sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Works,
    Fails(i32),
    Signal(i32),
}

/// What going on with a use needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// The key, and to be let in again.
    Opening,
    /// The key.
    Key,
    /// Pages that only the key brings back, by a mapping.
    Page,
    /// Nothing of the key.
    Nothing,
}

/// A use of a file that began before the key goes.
struct Use {
    what: &'static str,
    needs: Needs,
    /// Goes on with it afterwards.
    go_on: Box<dyn FnOnce() -> Seen>,
}

/// Uses under way.
pub(crate) struct Uses(Vec<Use>);

impl Uses {
    /// Goes on with every use; each has to see what `expected` says of what it needs.
    #[track_caller]
    pub(crate) fn go_on(self, way: &dyn std::fmt::Debug, expected: impl Fn(Needs) -> Seen) {
        let wrong: Vec<String> = self
            .0
            .into_iter()
            .filter_map(|begun| {
                let (seen, expected) = ((begun.go_on)(), expected(begun.needs));
                (seen != expected).then(|| format!("{}: {seen:?}, not {expected:?}", begun.what))
            })
            .collect();
        assert!(wrong.is_empty(), "{way:?}: {wrong:#?}");
    }
}

pub(crate) fn seen<T>(result: Result<T, impl Into<io::Error>>) -> Seen {
    match result {
        Ok(_) => Seen::Works,
        Err(error) => Seen::Fails(error.into().raw_os_error().unwrap()),
    }
}

pub(crate) fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Begins every use, of files of its own in `dir`; `beside` is a file under another key.
pub(crate) fn begin(dir: &Path, beside: &Path) -> Uses {
    let mut uses = Vec::new();
    let mut file =
        |what: &'static str, needs: Needs, begin: &dyn Fn(PathBuf) -> Box<dyn FnOnce() -> Seen>| {
            let path = dir.join(what.replace(' ', "-"));
            fs::write(&path, vec![7; LEN]).unwrap();
            uses.push(Use { what, needs, go_on: begin(path) });
        };
    file("reading what is cached", Needs::Key, &|path| {
        let file = open(&path);
        (&file).read_exact(&mut [0; LEN]).unwrap();
        Box::new(move || seen(file.read_exact_at(&mut [0; 100], 5000)))
    });
    file("reading what was never read", Needs::Key, &|path| {
        let file = open(&path);
        Box::new(move || seen(file.read_exact_at(&mut [0; 100], 30_000)))
    });
    file("reading directly", Needs::Key, &|path| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        let read = move || {
            let mut memory = vec![0; 2 * BLOCK];
            let at = memory.as_ptr().align_offset(BLOCK);
            file.read_exact_at(&mut memory[at..at + BLOCK], 0)
        };
        read().unwrap();
        Box::new(move || seen(read()))
    });
    file("writing", Needs::Key, &|path| {
        let file = open(&path);
        file.write_all_at(b"before", 0).unwrap();
        Box::new(move || seen(file.write_all_at(b"after", 0)))
    });
    file("appending", Needs::Key, &|path| {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"before").unwrap();
        Box::new(move || seen(file.write_all(b"after")))
    });
    file("truncating", Needs::Key, &|path| {
        let file = open(&path);
        Box::new(move || seen(file.set_len(10)))
    });
    file("truncating by name", Needs::Opening, &|path| {
        Box::new(move || seen(OpenOptions::new().write(true).truncate(true).open(path)))
    });
    file("punching a hole", Needs::Key, &|path| {
        let file = open(&path);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Box::new(move || seen(rustix::fs::fallocate(&file, flags, 0, 8192)))
    });
    file("sending", Needs::Key, &|path| {
        let file = open(&path);
        let sink = tempfile::tempfile().unwrap();
        rustix::fs::sendfile(&sink, &file, None, 100).unwrap();
        Box::new(move || seen(rustix::fs::sendfile(&sink, &file, None, 100)))
    });
    file("splicing", Needs::Key, &|path| {
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
    file("being copied", Needs::Key, &|path| {
        let (file, copy) = (open(&path), open(&target));
        Box::new(move || {
            seen(rustix::fs::copy_file_range(
                file.as_fd(),
                None,
                copy.as_fd(),
                Some(&mut LEN.try_into().unwrap()),
                100,
            ))
        })
    });
    file("opening", Needs::Opening, &|path| Box::new(move || seen(File::open(path))));
    file("opening by a second name", Needs::Opening, &|path| {
        let second = path.with_extension("second");
        fs::hard_link(&path, &second).unwrap();
        let held = open(&path);
        Box::new(move || {
            drop(held);
            seen(File::open(second))
        })
    });
    file("reading after a rename", Needs::Key, &|path| {
        let file = open(&path);
        Box::new(move || {
            fs::rename(&path, path.with_extension("renamed")).unwrap();
            seen(file.read_exact_at(&mut [0; 100], 0))
        })
    });
    file("reading after an unlink", Needs::Key, &|path| {
        let file = open(&path);
        fs::remove_file(&path).unwrap();
        Box::new(move || seen(file.read_exact_at(&mut [0; 100], 0)))
    });
    file("looking at it", Needs::Nothing, &|path| {
        let file = open(&path);
        Box::new(move || seen(file.metadata().and_then(|_| fs::symlink_metadata(path))))
    });
    file("flushing what was written", Needs::Nothing, &|path| {
        let file = open(&path);
        file.write_all_at(b"before", 0).unwrap();
        Box::new(move || seen(file.sync_all()))
    });
    for (what, role, needs) in [
        ("a shared mapping", "shared", Needs::Page),
        ("a private mapping", "private", Needs::Page),
        ("a private page that was written to", "copied", Needs::Nothing),
    ] {
        file(what, needs, &|path| {
            let mut child = Child::start(role, &path);
            assert_eq!(child.hear(), "mapped");
            Box::new(move || {
                child.tell("touch");
                child.end().signal().map_or(Seen::Works, Seen::Signal)
            })
        });
    }
    Uses(uses)
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
