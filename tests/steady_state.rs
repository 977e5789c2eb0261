//! What a request costs beside the cipher once its thread has served some: no allocation, and of the
//! operating system one read or one write. Both for a sealed file by itself and for the whole way below
//! the mounting: handles, gates, keys and range locks.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/unmounted.rs"]
mod unmounted;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::child;
use kmsfs::chunk::{ChunkError, SealedFile};
use kmsfs::format::Id;
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::slot::Wrapped;
use kmsfs::fs::{Fs, NewMode, ROOT_INO, Requester};
use kmsfs::secret::Key;
use unmounted::Unmounted;

/// Counts allocations, thread by thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes on to the system's allocator as it came, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as this function's own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as this function's own.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as this function's own.
        unsafe { System.realloc(block, layout, len) }
    }
}

/// Plaintext bytes in a chunk.
const PAYLOAD: usize = 4064;
/// Bytes in the file: its chunks' floors are in the header alone, and the requests below are within it.
const FILE_LEN: usize = 60 * PAYLOAD;
const REQUEST_LENS: [usize; 4] = [512, 4096, 5 * PAYLOAD, 64 << 10];
/// Requests of each kind, after which the same ones are counted.
const REQUESTS: usize = 50;

/// Something with contents.
trait Subject {
    fn read(&self, offset: u64, out: &mut [u8]);
    fn write(&self, offset: u64, data: &[u8]);
}

/// A sealed file over a file.
struct Sealed(SealedFile<File>, kmsfs::format::schedule::FileKeys);

impl Sealed {
    fn new(dir: &Path) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(dir.join("sealed")).unwrap();
        let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let data_key = Key::random().unwrap();
        let opened = SealedFile::create(file, head, &data_key, Wrapped::default(), 1).unwrap();
        Self(opened.file, opened.keys)
    }
}

impl Subject for Sealed {
    fn read(&self, offset: u64, out: &mut [u8]) {
        assert_eq!(self.0.read(&self.1, offset, out).unwrap(), out.len());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(&self.1, offset, data, |newest| Ok::<_, ChunkError>(newest + 1)).unwrap();
    }
}

/// A file of a volume, through a handle.
struct Handle {
    fs: Arc<Fs>,
    fh: u64,
    _volume: Unmounted,
}

impl Handle {
    fn new() -> Self {
        let volume = Unmounted::new();
        let fs = volume.mount();
        let mode = NewMode { mode: 0o600, umask: 0 };
        let (_, fh) = fs.create(Requester::own(), ROOT_INO, OsStr::new("file"), mode).unwrap();
        Self { fs, fh, _volume: volume }
    }
}

impl Subject for Handle {
    fn read(&self, offset: u64, out: &mut [u8]) {
        assert_eq!(self.fs.read(self.fh, offset, out).unwrap(), out.len());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.fs.write(self.fh, offset, data, false, None).unwrap();
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Read,
    Overwrite,
    Append,
}

/// Calls `request` with the offset of one request after another, and where a round of them begins.
fn requests(subject: &dyn Subject, what: What, data: &mut [u8]) {
    let len = data.len();
    for index in 0..REQUESTS {
        let at = match what {
            What::Append => FILE_LEN + index * len,
            // Anywhere in a chunk but at its beginning.
            _ => 1 + index * 7919 % (FILE_LEN - len),
        } as u64;
        match what {
            What::Read => subject.read(at, data),
            _ => subject.write(at, data),
        }
    }
}

fn filled(subject: &dyn Subject) {
    subject.write(0, &vec![1; FILE_LEN]);
}

#[track_caller]
fn assert_no_allocation(subject: &dyn Subject) {
    filled(subject);
    for what in [What::Read, What::Overwrite] {
        for len in REQUEST_LENS {
            let mut data = vec![2; len];
            requests(subject, what, &mut data);
            let before = ALLOCATIONS.get();
            requests(subject, what, &mut data);
            assert_eq!(ALLOCATIONS.get() - before, 0, "{what:?} of {len} bytes");
        }
    }
    // Side by side, so that the set of chunks that were written stays one range.
    let mut data = vec![3; 4096];
    requests(subject, What::Append, &mut data);
    let before = ALLOCATIONS.get();
    for index in REQUESTS..2 * REQUESTS {
        subject.write((FILE_LEN + index * data.len()) as u64, &data);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0, "appending");
}

#[test]
fn requests_to_a_sealed_file_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert_no_allocation(&Sealed::new(dir.path()));
}

#[test]
fn requests_through_a_handle_allocate_nothing() {
    assert_no_allocation(&Handle::new());
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    let mut buffer: Vec<u8> = Vec::with_capacity(10);
    buffer.reserve(1000);
    assert_eq!(ALLOCATIONS.get() - before, 2, "{}", buffer.capacity());
}

/// A system call that nothing else makes, to tell in a trace where what is looked at begins and ends.
fn mark() {
    let _ = rustix::process::getpgid(None);
}

/// In the process that is traced: rounds of requests, each between two marks.
fn traced(dir: &Path) {
    let subjects: [Box<dyn Subject>; 2] = [Box::new(Sealed::new(dir)), Box::new(Handle::new())];
    for subject in subjects {
        filled(&*subject);
        for (what, len) in ROUNDS {
            let mut data = vec![2; len];
            if what != What::Append {
                requests(&*subject, what, &mut data);
            }
            mark();
            requests(&*subject, what, &mut data);
            mark();
        }
    }
}

const ROUNDS: [(What, usize); 4] =
    [(What::Read, 4096), (What::Read, 64 << 10), (What::Overwrite, 4 * PAYLOAD), (What::Append, 4096)];

#[test]
fn child() {
    child::play(&[("traced", traced)]);
}

/// How many calls of each kind there were between each two marks.
fn rounds(trace: &str) -> Vec<BTreeMap<String, usize>> {
    let mut rounds = Vec::new();
    let mut current: Option<BTreeMap<String, usize>> = None;
    for line in trace.lines() {
        let Some((call, _)) = line.split_once('(') else { continue };
        match (call, current.take()) {
            ("getpgid", None) => current = Some(BTreeMap::new()),
            ("getpgid", Some(round)) => rounds.push(round),
            (call, Some(mut round)) => {
                *round.entry(call.to_owned()).or_default() += 1;
                current = Some(round);
            }
            (_, None) => {}
        }
    }
    rounds
}

#[test]
fn a_request_is_one_call_to_the_operating_system() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    // Each thread has a trace of its own.
    let mut strace = Command::new("strace");
    strace.args(["-ff", "-qq", "-o"]).arg(&trace).arg(std::env::current_exe().unwrap());
    child::as_role(&mut strace, "traced", dir.path());
    match strace.output() {
        Ok(child) => assert!(child.status.success(), "{child:?}"),
        Err(error) => return eprintln!("skipped: there is no strace ({error})"),
    }
    let traces = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let traces = traces.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("trace."));
    let marked: Vec<_> = traces.map(|path| rounds(&std::fs::read_to_string(path).unwrap())).collect();
    let marked: Vec<_> = marked.into_iter().filter(|rounds| !rounds.is_empty()).collect();
    assert_eq!(marked.len(), 1, "one thread makes the requests");
    assert_eq!(marked[0].len(), 2 * ROUNDS.len());
    for (round, (what, len)) in marked[0].iter().zip(ROUNDS.iter().cycle()) {
        let mut round = round.clone();
        // Fetched for many chunks at a time.
        let nonces = round.remove("getrandom").unwrap_or_default();
        let chunks = REQUESTS * (len.div_ceil(PAYLOAD) + 1);
        assert!(nonces <= chunks.div_ceil(256), "{nonces} times nonces for {chunks} chunks");
        let expected: &[(&str, usize)] = match what {
            What::Read => &[("pread64", REQUESTS)],
            // A chunk at each end of which a part stays is read before.
            What::Overwrite => &[("pread64", 2 * REQUESTS), ("pwrite64", REQUESTS)],
            // The size is set first, and the last chunk read but where one ends with the file.
            What::Append => &[("ftruncate", REQUESTS), ("pread64", REQUESTS - 1), ("pwrite64", REQUESTS)],
        };
        let expected: BTreeMap<String, usize> =
            expected.iter().map(|&(call, count)| (call.to_owned(), count)).collect();
        assert_eq!(round, expected, "{what:?} of {len} bytes");
    }
}
