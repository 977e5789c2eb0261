//! A log that nobody adds to uses no processor. In a process of its own, with one log, whose writer is
//! known by its name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]
#![allow(dead_code, reason = "what other tests of the log use of the workbench")]

mod memory_disk;
mod audit {
    pub(crate) mod workbench;
}

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use audit::workbench::{Workbench, event};
use kmsfs::clock::SystemClock;
use kmsfs::kms::audit::{AuditLog, Head, Mode};
use memory_disk::MemoryDisk;

/// What the writer of the log has run so far.
fn writer_ran() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let named =
        |task: &std::path::PathBuf| fs::read_to_string(task.join("comm")).unwrap().trim() == "kms-audit";
    let writers: Vec<_> = tasks.filter(named).collect();
    assert_eq!(writers.len(), 1);
    let ran = fs::read_to_string(writers[0].join("schedstat")).unwrap();
    Duration::from_nanos(ran.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn the_writer_rests_after_a_durable_event() {
    let (bench, disk) = (Workbench::new(1 << 20), MemoryDisk::default());
    let log =
        AuditLog::start(bench.setup(&disk), Head::START, Mode::Required, Arc::new(SystemClock)).unwrap();
    let mut idle = Duration::ZERO;
    for number in 0..50 {
        log.place().unwrap().fill_durably(event(number)).unwrap();
        // It may have a little left to do.
        std::thread::sleep(Duration::from_millis(5));
        let before = writer_ran();
        std::thread::sleep(Duration::from_millis(10));
        idle += writer_ran() - before;
    }
    assert!(idle < Duration::from_millis(20), "ran for {idle:?} of half a second with nothing to do");
    log.end().unwrap();
}
