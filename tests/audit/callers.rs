//! Many callers at once, and a disk that refuses for a while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kmsfs::clock::SystemClock;
use kmsfs::kms::audit::{AuditError, AuditLog, Head, MAX_PLACES, MISSED, Mode};

use super::workbench::{Workbench, event, files, numbers};
use crate::memory_disk::{Fault, MemoryDisk};

fn start(bench: &Workbench, disk: &MemoryDisk, mode: Mode) -> AuditLog {
    AuditLog::start(bench.setup(disk), Head::START, mode, Arc::new(SystemClock)).unwrap()
}

#[test]
fn every_event_of_every_caller_is_in_the_log_once() {
    let (bench, disk) = (Workbench::new(20_000), MemoryDisk::default());
    let log = start(&bench, &disk, Mode::Required);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..250 {
                    let place = log.place().unwrap();
                    if n % 50 == 0 {
                        place.fill_durably(event(caller * 250 + n)).unwrap();
                    } else {
                        place.fill(event(caller * 250 + n));
                    }
                }
            });
        }
    });
    let head = log.end().unwrap();
    let found = numbers(&files(&disk));
    assert_eq!(found.len(), 2000);
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 2000);
    // Of one caller they are in its order.
    for caller in 0..8 {
        let own = found.iter().filter(|n| **n / 250 == caller);
        assert!(own.is_sorted());
    }
    assert!(bench.verify(&disk, head).is_sound());
}

#[test]
fn a_durable_event_is_there_when_the_caller_goes_on_and_others_soon_after() {
    let (bench, disk) = (Workbench::new(1 << 20), MemoryDisk::default());
    let log = start(&bench, &disk, Mode::Required);
    log.place().unwrap().fill_durably(event(0)).unwrap();
    assert_eq!(numbers(&files(&disk)), [0]);
    log.place().unwrap().fill(event(1));
    let since = Instant::now();
    while numbers(&files(&disk)).len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
        // The promise is 100 ms; this machine may be busy.
        assert!(since.elapsed() < Duration::from_secs(2));
    }
    // A place that is given back makes no line.
    drop(log.place().unwrap());
    assert_eq!(log.flush().map(|()| log.head()).unwrap().sequence, 3);
}

#[test]
fn calls_are_refused_while_the_disk_is_full_and_the_log_says_how_many() {
    let (bench, disk) = (Workbench::new(1 << 20), MemoryDisk::default());
    let log = start(&bench, &disk, Mode::Required);
    disk.fail(1, Fault::Enospc);
    assert_eq!(log.place().unwrap().fill_durably(event(0)), Err(AuditError::NoSpace));
    for _ in 0..3 {
        assert_eq!(log.place().unwrap_err(), AuditError::NoSpace);
    }
    disk.heal();
    let since = Instant::now();
    while log.place().is_err() {
        std::thread::sleep(Duration::from_millis(10));
        assert!(since.elapsed() < Duration::from_secs(10));
    }
    let head = log.end().unwrap();
    // The event that could not be written then is there, once.
    assert_eq!(numbers(&files(&disk)), [0]);
    let text = String::from_utf8(files(&disk)[0].1.clone()).unwrap();
    assert!(text.contains(MISSED), "{text}");
    assert!(bench.verify(&disk, head).is_sound());
}

#[test]
fn with_best_effort_calls_go_on_and_what_is_not_logged_is_counted() {
    let (bench, disk) = (Workbench::new(1 << 30), MemoryDisk::default());
    let log = start(&bench, &disk, Mode::BestEffort);
    disk.fail(1, Fault::Enospc);
    log.place().unwrap().fill_durably(event(0)).unwrap();
    let many = MAX_PLACES + 100;
    for _ in 1..many {
        log.place().unwrap().fill(br#"{"number":"<1>"}"#.to_vec());
    }
    disk.heal();
    let head = log.end().unwrap();
    assert_eq!(numbers(&files(&disk)).len(), MAX_PLACES);
    let text = String::from_utf8(files(&disk)[0].1.clone()).unwrap();
    assert!(text.contains(r#""eventCount":100"#), "not counted");
    assert!(bench.verify(&disk, head).is_sound());
}

#[test]
fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    let (bench, disk) = (Workbench::new(1 << 30), MemoryDisk::default());
    let log = start(&bench, &disk, Mode::Required);
    let held: Vec<_> = (0..MAX_PLACES).map(|_| log.place().unwrap()).collect();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            log.place().unwrap().fill(event(0));
            done.store(1, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(done.load(Ordering::SeqCst), 0);
        held.into_iter().for_each(|place| place.fill(event(1)));
    });
    log.end().unwrap();
    assert_eq!(numbers(&files(&disk)).len(), MAX_PLACES + 1);
}
