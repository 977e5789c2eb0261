//! Reading a log while it is written, over new segments and after a failure.

use std::sync::Arc;

use kmsfs::kms::SystemDisk;
use kmsfs::kms::audit::{Events, Head, Journal, LOST};

use super::workbench::{Workbench, append, event, now};
use crate::memory_disk::MemoryDisk;

/// The numbers of the events that can be read now.
fn read(events: &mut Events) -> Vec<usize> {
    let mut found = Vec::new();
    while let Some(event) = events.next_event().unwrap() {
        found.extend(
            event["number"].as_str().map(|text| text.trim_matches(['<', '>']).parse::<usize>().unwrap()),
        );
    }
    found
}

#[test]
fn a_reader_that_follows_sees_every_event_once_over_segments_and_failures() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Workbench::new(1000);
    let mut setup = bench.setup(&MemoryDisk::default());
    (setup.disk, setup.dir) = (Arc::new(SystemDisk), dir.path().join("log"));
    let mut follower = Events::after(&setup.dir, 0);
    assert!(read(&mut follower).is_empty());
    let mut journal = Journal::open(setup.clone(), Head::START, now()).unwrap();
    for number in 0..40 {
        append(&mut journal, &[event(number)]).unwrap();
        assert_eq!(read(&mut follower), [number]);
        if number % 7 == 3 {
            // Opened as after a crash, which writes the last segment anew.
            journal = Journal::open(setup.clone(), Head::START, now()).unwrap();
        }
    }
    assert!(std::fs::read_dir(&setup.dir).unwrap().count() > 5);
    assert_eq!(read(&mut Events::after(&setup.dir, 0)), (0..40).collect::<Vec<_>>());
    let last = journal.head().sequence;
    assert_eq!(read(&mut Events::after(&setup.dir, last - 1)), [39]);
    // A line that is being written is not one yet.
    let newest = std::fs::read_dir(&setup.dir).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &whole[..whole.len() - 10]).unwrap();
    let mut slow = Events::after(&setup.dir, last - 1);
    assert!(read(&mut slow).is_empty());
    std::fs::write(&newest, &whole).unwrap();
    assert_eq!(read(&mut slow), [39]);
    // Whole segments are gone: what is after them is read all the same.
    std::fs::remove_file(&newest).unwrap();
    let mut journal = Journal::open(setup.clone(), journal.head(), now()).unwrap();
    append(&mut journal, &[event(40)]).unwrap();
    let all: Vec<_> = std::iter::from_fn({
        let mut events = Events::after(&setup.dir, 0);
        move || events.next_event().unwrap()
    })
    .collect();
    assert_eq!(all.last().unwrap()["number"], "<40>");
    assert!(all.iter().any(|event| event["eventName"] == LOST));
}
