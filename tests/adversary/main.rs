//! Attacks on a volume by somebody who owns its ciphertext directory, has kept all that was ever in
//! it, and strikes between mounts and while it is mounted. Whatever a program then sees was true
//! once, at that place, and is no older than `docs/THREATS.md` says; or the operation fails with a
//! documented error. Nothing panics, hangs, takes much memory, or reaches outside of the directory.
//!
//! `KMSFS_ADVERSARY_SECONDS` sets how long attacks go on; a failure prints its seed, which
//! `KMSFS_ADVERSARY_SEED` tries again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod attack;
mod bench;
mod case;
#[path = "../common/dice.rs"]
mod dice;
mod hand_picked;
mod history;
#[path = "../common/memory_dir.rs"]
mod memory_dir;
mod oracle;
mod outside;
mod tree;
#[path = "../common/unmounted.rs"]
mod unmounted;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench::Bench;
use rustix::process::{Resource, Rlimit, setrlimit};

/// How long attacks go on, in seconds.
const SECONDS: u64 = 15;
const THREADS: u64 = 2;
/// Seeds that share one history.
const CASES_PER_HISTORY: u64 = 100;
/// How long one attacked volume may take.
const HUNG: Duration = Duration::from_secs(20);
/// Bytes of address space that all of it may take.
const MEMORY: u64 = 3 << 30;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn an_attacked_volume_shows_what_was_true_once_or_an_error() {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) }).unwrap();
    if let Some(seed) = setting("KMSFS_ADVERSARY_SEED") {
        let bench = Bench::new();
        let history = history::live(&bench, "life", seed / CASES_PER_HISTORY);
        let shown = case::run(&bench, &history, seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        writeln!(std::io::stderr(), "{shown}").unwrap();
        return;
    }
    let end = Instant::now() + Duration::from_secs(setting("KMSFS_ADVERSARY_SECONDS").unwrap_or(SECONDS));
    let first = setting("KMSFS_ADVERSARY_FIRST").unwrap_or(0);
    let total = AtomicU64::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                scope.spawn({
                    let total = &total;
                    move || series(first + number, end, total)
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let _ = writeln!(std::io::stderr(), "{} attacked volumes", total.load(Ordering::Relaxed));
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Attacks volumes until `end`; answers what went wrong.
fn series(first: u64, end: Instant, total: &AtomicU64) -> Vec<String> {
    let mut failures = Vec::new();
    let mut life = first;
    while Instant::now() < end && failures.len() < 10 {
        let bench = Bench::new();
        let history = history::live(&bench, "life", life);
        for seed in life * CASES_PER_HISTORY..(life + 1) * CASES_PER_HISTORY {
            if Instant::now() >= end {
                break;
            }
            let watchdog = Watchdog::new(seed);
            let run = catch_unwind(AssertUnwindSafe(|| case::run(&bench, &history, seed)));
            drop(watchdog);
            total.fetch_add(1, Ordering::Relaxed);
            match run {
                Ok(Ok(_)) => {}
                Ok(Err(why)) => failures.push(format!("seed {seed}: {why}")),
                Err(_) => failures.push(format!("seed {seed}: a panic")),
            }
        }
        life += THREADS;
    }
    failures
}

/// Ends the process, naming the seed, unless it is dropped in time.
struct Watchdog(Option<std::sync::mpsc::Sender<()>>);

impl Watchdog {
    fn new(seed: u64) -> Self {
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(HUNG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = writeln!(std::io::stderr(), "seed {seed}: hangs");
                std::process::abort();
            }
        });
        Self(Some(sender))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.take();
    }
}
