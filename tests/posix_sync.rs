//! Flushing: what a program asks to be durable is flushed by the mount before the call returns. Seen
//! from outside, by the system calls that the mount's process makes meanwhile.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::pair::{Pair, pattern};
use common::skipped;
use common::sys::{Aligned, Mapping, write_with};

/// Flushes in a row that must be seen before the rest counts: more than the mount has threads.
const PROBES: usize = 20;
/// Probes until then; and times that strace is tried, which may miss a thread that is just beginning.
const MOST_PROBES: usize = 200;
const ATTEMPTS: usize = 10;

/// The flushes of a process, while it lives.
struct Trace {
    strace: Child,
    log: PathBuf,
    key_store: PathBuf,
    read: std::cell::Cell<usize>,
}

impl Trace {
    /// Watches the process of the mount; `None`, said on standard error, where strace cannot.
    fn of(pair: &Pair, test: &str) -> Option<Self> {
        for _ in 0..ATTEMPTS {
            let trace = Self::attach(pair, test)?;
            if trace.sees_all(&pair.mount) {
                return Some(trace);
            }
        }
        panic!("strace does not see all threads of the mount");
    }

    fn attach(pair: &Pair, test: &str) -> Option<Self> {
        let pid = pair.world.process(&pair.mount).as_raw_nonzero().to_string();
        let log = pair.world.path("trace");
        let calls = "trace=fsync,fdatasync,syncfs,sync_file_range,pwritev2";
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-e", calls, "-p", &pid, "-o"]).arg(&log);
        let Ok(mut strace) = command.stderr(Stdio::piped()).spawn() else {
            skipped(test, "strace is not installed");
            return None;
        };
        let said = BufReader::new(strace.stderr.take().unwrap());
        let attached = said.lines().map_while(Result::ok).any(|line| line.contains("attached"));
        if !attached {
            let _ = strace.wait();
            skipped(test, "strace may not attach");
            return None;
        }
        let key_store = pair.world.path("keys");
        Some(Self { strace, log, key_store, read: std::cell::Cell::new(0) })
    }

    /// Whether every thread is watched. Each is from its next stop on, a moment after strace says so.
    fn sees_all(&self, mount: &Path) -> bool {
        let root = File::open(mount).unwrap();
        let mut seen = 0;
        (0..MOST_PROBES).any(|_| {
            let flushed = self.during(|| root.sync_all().unwrap());
            seen = if flushed.is_empty() { 0 } else { seen + 1 };
            seen == PROBES
        })
    }

    /// The paths that were flushed while `f` ran.
    fn during(&self, f: impl FnOnce()) -> Vec<PathBuf> {
        self.flushed();
        f();
        self.flushed()
    }

    fn flushed(&self) -> Vec<PathBuf> {
        let log = fs::read_to_string(&self.log).unwrap();
        // A call that is under way has no end of line yet, or goes on in a line of its own.
        let whole = log.rfind('\n').map_or(0, |at| at + 1);
        let lines = log[self.read.replace(whole)..whole].lines();
        let paths = lines.filter(|line| !line.contains("resumed>")).filter_map(|line| {
            let path = line.split_once('<')?.1.split_once('>')?.0;
            Some(PathBuf::from(path))
        });
        // The key store writes down now and then when keys were used.
        paths.filter(|path| !path.starts_with(&self.key_store)).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Not SIGINT: of a process that is just ending, strace then waits for the first thread, and that
        // thread for strace to have taken note of the others. The kernel lets go of all of them.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}

#[test]
fn fsync_and_fdatasync_flush_the_file() {
    let test = "fsync_and_fdatasync_flush_the_file";
    let Some(pair) = Pair::new(test, "") else { return };
    let path = pair.mount.join("file");
    let file = open(&path, 0);
    file.write_all_at(&pattern(1, 10_000), 0).unwrap();
    let backing = pair.backing(&path);
    let Some(trace) = Trace::of(&pair, test) else { return };
    assert_eq!(
        trace.during(|| file.write_all_at(b"x", 0).unwrap()),
        Vec::<PathBuf>::new(),
        "a plain write flushes nothing"
    );
    for flush in [File::sync_all, File::sync_data] {
        file.write_all_at(b"y", 5000).unwrap();
        assert!(trace.during(|| flush(&file).unwrap()).contains(&backing));
    }
    let mapping = Mapping::shared(&file, 4096).unwrap();
    mapping.write(10, b"mapped");
    assert!(trace.during(|| mapping.sync().unwrap()).contains(&backing), "msync");
}

#[test]
fn synchronous_writes_are_flushed_before_they_return() {
    let test = "synchronous_writes_are_flushed";
    for options in ["", "writeback"] {
        let Some(pair) = Pair::new(test, options) else { return };
        let path = pair.mount.join("file");
        open(&path, 0).write_all_at(&pattern(1, 10_000), 0).unwrap();
        let backing = pair.backing(&path);
        let Some(trace) = Trace::of(&pair, test) else { return };
        for (what, flags) in [
            ("O_SYNC", libc::O_SYNC),
            ("O_DSYNC", libc::O_DSYNC),
            ("O_DIRECT and O_DSYNC", libc::O_DIRECT | libc::O_DSYNC),
        ] {
            let file = open(&path, flags);
            for at in [0, 4096, 20_480] {
                let flushed =
                    trace.during(|| file.write_all_at(&Aligned::new(&pattern(2, 4096)), at).unwrap());
                assert!(flushed.contains(&backing), "{what} at {at} with '{options}'");
            }
        }
        let file = open(&path, 0);
        for (what, flag) in [("RWF_SYNC", libc::RWF_SYNC), ("RWF_DSYNC", libc::RWF_DSYNC)] {
            let flushed = trace.during(|| assert_eq!(write_with(&file, b"x", 3, flag).unwrap(), 1));
            assert!(flushed.contains(&backing), "{what} with '{options}'");
        }
    }
}

#[test]
fn a_synchronous_mount_flushes_every_write() {
    let test = "a_synchronous_mount_flushes_every_write";
    let Some(pair) = Pair::new(test, "sync") else { return };
    let path = pair.mount.join("file");
    let file = open(&path, 0);
    let backing = pair.backing(&path);
    let Some(trace) = Trace::of(&pair, test) else { return };
    assert!(trace.during(|| file.write_all_at(b"x", 0).unwrap()).contains(&backing));
}

#[test]
fn flushing_a_file_flushes_the_records_of_new_directories() {
    let test = "flushing_a_file_flushes_the_records";
    let Some(pair) = Pair::new(test, "") else { return };
    let Some(trace) = Trace::of(&pair, test) else { return };
    for flush_directory in [false, true] {
        let dir = pair.mount.join(format!("{flush_directory}/below"));
        fs::create_dir_all(&dir).unwrap();
        let file = open(&dir.join("file"), 0);
        let records = [&dir, dir.parent().unwrap()].map(|dir| pair.backing(dir).join("kmsfs.dir"));
        let flushed = trace.during(|| {
            if flush_directory {
                File::open(&dir).unwrap().sync_all().unwrap();
            } else {
                file.sync_data().unwrap();
            }
        });
        assert!(
            records.iter().all(|record| flushed.contains(record)),
            "{flushed:?} lacks one of {records:?}"
        );
        if flush_directory {
            assert!(flushed.contains(&pair.backing(&dir)), "the directory itself");
        }
    }
}

#[test]
fn syncfs_and_unmounting_flush_the_volume() {
    let test = "syncfs_and_unmounting_flush_the_volume";
    let Some(pair) = Pair::new(test, "") else { return };
    fs::write(pair.mount.join("file"), "contents").unwrap();
    let volume = pair.world.path("vol");
    let Some(trace) = Trace::of(&pair, test) else { return };
    let flushed = trace.during(|| pair.world.umount(&pair.mount));
    assert!(flushed.iter().any(|path| path.starts_with(&volume)), "{flushed:?}");
}

#[test]
fn unmounting_settles_every_file() {
    let Some(pair) = Pair::new("unmounting_settles_every_file", "") else { return };
    let path = |i: usize| pair.mount.join(i.to_string());
    let settled = |i: usize| {
        let info = pair.world.json(&["file", "info", path(i).to_str().unwrap()]);
        info[0]["settled"].as_bool().unwrap()
    };
    for i in 0..20 {
        fs::write(path(i), pattern(1, i * 1000)).unwrap();
    }
    assert!((1..20).any(|i| !settled(i)), "nothing is left for the unmount");
    // Right after the last write.
    pair.remount();
    assert!((0..20).all(settled));
}
