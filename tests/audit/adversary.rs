//! Somebody who may write to the log's files wants something not to have happened.

use kmsfs::kms::audit::{Head, LOST, Problem};
use kmsfs::secret::Key;
use proptest::prelude::*;

use super::workbench::{Workbench, append, event, files, numbers, verify_files};
use crate::memory_disk::MemoryDisk;

type Files = Vec<(String, Vec<u8>)>;

/// What can be done to the lines of a log.
#[derive(Debug, Clone)]
enum Attack {
    Flip {
        at: usize,
        bit: u8,
    },
    Drop {
        line: usize,
        count: usize,
    },
    Swap {
        line: usize,
        other: usize,
    },
    Repeat {
        line: usize,
        before: usize,
    },
    /// A line of another log of the same length, under another key.
    Foreign {
        line: usize,
    },
    /// Cuts the log off after so many bytes.
    Cut {
        at: usize,
    },
    DropFile {
        file: usize,
    },
    SwapFiles {
        file: usize,
        other: usize,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
}

fn attack() -> impl Strategy<Value = Attack> {
    let any_place = 0..usize::MAX;
    let place = || any_place.clone();
    prop_oneof![
        (place(), 0..8u8).prop_map(|(at, bit)| Attack::Flip { at, bit }),
        (place(), 1..6usize).prop_map(|(line, count)| Attack::Drop { line, count }),
        (place(), place()).prop_map(|(line, other)| Attack::Swap { line, other }),
        (place(), place()).prop_map(|(line, before)| Attack::Repeat { line, before }),
        place().prop_map(|line| Attack::Foreign { line }),
        place().prop_map(|at| Attack::Cut { at }),
        place().prop_map(|file| Attack::DropFile { file }),
        (place(), place()).prop_map(|(file, other)| Attack::SwapFiles { file, other }),
        (place(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Attack::Insert { at, bytes }),
    ]
}

struct Victim {
    bench: Workbench,
    files: Files,
    head: Head,
    foreign: Files,
}

impl Victim {
    fn new() -> Self {
        let (bench, disk) = (Workbench::new(4000), MemoryDisk::default());
        let head = bench.log_of(&disk, 40).head();
        let other = MemoryDisk::default();
        Workbench { key: Key::random().unwrap().into(), ..bench.clone() }.log_of(&other, 40);
        let files = files(&disk);
        assert!(files.len() > 3);
        Self { bench, files, head, foreign: self::files(&other) }
    }

    fn verify(&self, files: &Files) -> kmsfs::kms::audit::Report {
        verify_files(Some(&self.bench.key), files, Some(self.head))
    }
}

/// The file and the range of a place in a log, counted over all files.
fn byte_at(files: &Files, at: usize) -> (usize, usize) {
    let mut at = at % files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    for (file, (_, bytes)) in files.iter().enumerate() {
        if at < bytes.len() {
            return (file, at);
        }
        at -= bytes.len();
    }
    unreachable!("within the sum")
}

fn lines(files: &Files) -> Vec<Vec<Vec<u8>>> {
    let split = |bytes: &Vec<u8>| bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    files.iter().map(|(_, bytes)| split(bytes)).collect()
}

fn line_at(lines: &[Vec<Vec<u8>>], at: usize) -> (usize, usize) {
    let places: Vec<_> =
        lines.iter().enumerate().flat_map(|(f, l)| (0..l.len()).map(move |n| (f, n))).collect();
    places[at % places.len()]
}

fn mount(victim: &Victim, attack: &Attack) -> Files {
    let mut files = victim.files.clone();
    let mut of_lines = lines(&files);
    match attack.clone() {
        Attack::Flip { at, bit } => {
            let (file, at) = byte_at(&files, at);
            files[file].1[at] ^= 1 << bit;
            return files;
        }
        Attack::Insert { at, bytes } => {
            let (file, at) = byte_at(&files, at);
            files[file].1.splice(at..at, bytes);
            return files;
        }
        Attack::Cut { at } => {
            let (file, at) = byte_at(&files, at);
            files.truncate(file + 1);
            files[file].1.truncate(at);
            return files;
        }
        Attack::DropFile { file } => {
            files.remove(file % files.len());
            return files;
        }
        Attack::SwapFiles { file, other } => {
            let (file, other) = (file % files.len(), other % files.len());
            let kept = files[file].1.clone();
            files[file].1 = std::mem::replace(&mut files[other].1, kept);
            return files;
        }
        Attack::Drop { line, count } => {
            let (file, line) = line_at(&of_lines, line);
            let end = (line + count).min(of_lines[file].len());
            of_lines[file].drain(line..end);
        }
        Attack::Swap { line, other } => {
            let ((f, l), (g, m)) = (line_at(&of_lines, line), line_at(&of_lines, other));
            let kept = of_lines[f][l].clone();
            of_lines[f][l] = std::mem::replace(&mut of_lines[g][m], kept);
        }
        Attack::Repeat { line, before } => {
            let ((f, l), (g, m)) = (line_at(&of_lines, line), line_at(&of_lines, before));
            let line = of_lines[f][l].clone();
            of_lines[g].insert(m, line);
        }
        Attack::Foreign { line } => {
            let (file, line) = line_at(&of_lines, line);
            of_lines[file][line] = lines(&victim.foreign)[file][line].clone();
        }
    }
    for ((_, bytes), lines) in files.iter_mut().zip(of_lines) {
        *bytes = lines.concat();
    }
    files
}

#[test]
fn every_attack_is_found() {
    let victim = Victim::new();
    let report = victim.verify(&victim.files);
    assert!(report.is_sound(), "{:?}", report.findings);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let run = runner.run(&attack(), |attack| {
        let attacked = mount(&victim, &attack);
        prop_assume!(attacked != victim.files);
        // Without its first segments a log is one whose beginning was archived, and says so.
        let report = victim.verify(&attacked);
        prop_assert!(!report.is_sound() || report.first > 1, "not found: {report:?}");
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_log_whose_beginning_is_archived_says_from_where_it_is() {
    let victim = Victim::new();
    let report = victim.verify(&victim.files[2..].to_vec());
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(kmsfs::kms::audit::file_name(report.first), victim.files[2].0);
    // The archive by itself, and a hole between it and the rest.
    let archive = verify_files(Some(&victim.bench.key), &victim.files[..2], None);
    assert!(archive.is_sound() && archive.last + 1 == report.first);
    let hole = victim.verify(&[&victim.files[..1], &victim.files[2..]].concat());
    assert!(matches!(hole.findings[0].problem, Problem::Missing { .. }), "{:?}", hole.findings);
}

#[test]
fn without_the_key_damage_is_found() {
    let victim = Victim::new();
    assert!(verify_files(None, &victim.files, None).is_sound());
    let mut damaged = victim.files;
    damaged[1].1[300] ^= 4;
    let report = verify_files(None, &damaged, None);
    assert!(!report.is_sound() && !report.authenticated);
}

#[test]
fn the_end_may_be_cut_off_after_the_anchor_and_nowhere_before() {
    let (bench, disk) = (Workbench::new(1 << 20), MemoryDisk::default());
    let mut journal = bench.log_of(&disk, 10);
    let anchor = journal.head();
    append(&mut journal, &[event(10), event(11)]).unwrap();
    let mut files = files(&disk);
    let ends: Vec<usize> =
        files[0].1.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for (line, end) in ends.iter().enumerate() {
        files[0].1.truncate(ends[ends.len() - 1 - line]);
        let left = ends.len() - line;
        let report = verify_files(Some(&bench.key), &files, Some(anchor));
        assert_eq!(report.is_sound(), left as u64 >= anchor.sequence, "{left} lines left, {end}");
    }
}

#[test]
fn an_end_that_is_gone_when_the_log_is_opened_stays_a_gap() {
    let (bench, disk) = (Workbench::new(2000), MemoryDisk::default());
    let head = bench.log_of(&disk, 12).head();
    let last = files(&disk).pop().unwrap().0;
    kmsfs::kms::Disk::remove(&disk, &std::path::Path::new(super::workbench::DIR).join(last)).unwrap();
    let mut journal = bench.open(&disk, head).unwrap();
    append(&mut journal, &[event(12)]).unwrap();
    let all = files(&disk);
    let text = String::from_utf8(all.last().unwrap().1.clone()).unwrap();
    assert!(text.contains(LOST), "{text}");
    assert_eq!(numbers(&all).last(), Some(&12));
    let report = bench.verify(&disk, journal.head());
    assert_eq!(report.wrong, 1, "{:?}", report.findings);
    assert!(matches!(report.findings[0].problem, Problem::Missing { last, .. } if last == head.sequence));
}
