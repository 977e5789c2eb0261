//! Whatever a crash leaves, the log opens; what was acknowledged is in it, in order; what was
//! under way is in it from its beginning or not at all; nothing is wrong with it; and it goes on.

use kmsfs::kms::audit::Head;

use super::workbench::{Workbench, append, event, files, numbers};
use crate::memory_disk::history::{Dice, History, Survives};
use crate::memory_disk::{MemoryDisk, Tree};

const GROUPS: usize = 60;
/// Random states unless the environment says otherwise.
const STATES: usize = 4000;

struct Acknowledged {
    moment: usize,
    events: usize,
    head: Head,
    /// What the key store would have kept.
    anchor: Head,
}

#[test]
fn whatever_a_crash_leaves_the_log_has_what_was_acknowledged_and_verifies() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = from_environment("KMSFS_CRASH_SEED").unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    let states = from_environment("KMSFS_CRASH_STATES").map_or(STATES, |count| count as usize);
    eprintln!("KMSFS_CRASH_SEED={seed}");
    let (bench, disk, mut random) = (Workbench::new(6000), MemoryDisk::default(), Dice::new(seed));
    let mut journal = bench.open(&disk, Head::START).unwrap();
    let mut anchor = Head::START;
    let mut history = vec![Acknowledged { moment: 0, events: 0, head: Head::START, anchor }];
    let mut events = 0;
    for _ in 0..GROUPS {
        match random.below(12) {
            // Closed, and opened again.
            0 => {
                anchor = journal.head();
                journal = bench.open(&disk, anchor).unwrap();
            }
            // Killed, and opened again.
            1 => journal = bench.open(&disk, anchor).unwrap(),
            2 => anchor = journal.head(),
            _ => {
                let group: Vec<Vec<u8>> = (0..1 + random.below(12)).map(|n| event(events + n)).collect();
                append(&mut journal, &group).unwrap();
                events += group.len();
            }
        }
        history.push(Acknowledged { moment: disk.moment(), events, head: journal.head(), anchor });
    }
    let count = look_at_all(&bench, &disk, &history, events, states, &mut random);
    eprintln!("{count} states");
}

fn look_at_all(
    bench: &Workbench,
    disk: &MemoryDisk,
    acknowledged: &[Acknowledged],
    events: usize,
    states: usize,
    random: &mut Dice,
) -> usize {
    let mut history = History::of(disk, Tree::default());
    let each = states / disk.moment() + 1;
    let mut count = 0;
    for moment in 0..=disk.moment() {
        history.advance(moment);
        let last = acknowledged.iter().rposition(|entry| entry.moment <= moment).unwrap();
        let mut look = |which: String, tree| {
            eprintln!("moment {moment} ({which})");
            let next = acknowledged.get(last + 1).map_or(events, |next| next.events);
            check(bench, &MemoryDisk::new(tree), &acknowledged[last], next);
            count += 1;
        };
        look("all".to_owned(), history.crash(Survives::Everything));
        look("synced".to_owned(), history.crash(Survives::Nothing));
        for _ in 0..each {
            let choice = random.next();
            look(choice.to_string(), history.crash(Survives::Some(&mut Dice::new(choice))));
        }
    }
    count
}

fn check(bench: &Workbench, disk: &MemoryDisk, before: &Acknowledged, most: usize) {
    let mut journal = bench.open(disk, before.anchor).unwrap();
    let found = numbers(&files(disk));
    assert!((before.events..=most).contains(&found.len()), "{} of {}", found.len(), before.events);
    assert!(found.iter().copied().eq(0..found.len()), "out of order: {found:?}");
    assert!(journal.head().sequence >= before.head.sequence);
    append(&mut journal, &[event(found.len())]).unwrap();
    let report = bench.verify(disk, journal.head());
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!((report.first, report.last), (1, journal.head().sequence));
    // It was closed, so it is taken over as it is.
    let mut again = bench.open(disk, journal.head()).unwrap();
    append(&mut again, &[event(found.len() + 1)]).unwrap();
    assert!(numbers(&files(disk)).into_iter().eq(0..found.len() + 2));
    assert!(bench.verify(disk, again.head()).is_sound());
}
