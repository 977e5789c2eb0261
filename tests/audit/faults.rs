//! A disk that fails at each of its calls in turn: an append answers an error or is in the log; what
//! was acknowledged stays; when the disk is well, the log goes on, without a line twice.

use kmsfs::kms::audit::{AuditError, Head};

use super::workbench::{Workbench, append, event, files, numbers};
use crate::memory_disk::history::{History, Survives};
use crate::memory_disk::{Fault, MemoryDisk};

#[test]
fn a_disk_that_fails_loses_nothing_and_repeats_nothing() {
    let bench = Workbench::new(1500);
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
        let mut tried = 0;
        for call in 1.. {
            let disk = MemoryDisk::default();
            let hit = try_fault(&bench, &disk, call, fault);
            if !hit {
                break;
            }
            tried += 1;
        }
        assert!(tried > 30, "{fault:?}: {tried} calls");
    }
}

/// Appends to a log of a few lines while the disk fails, and answers whether it did.
fn try_fault(bench: &Workbench, disk: &MemoryDisk, call: u64, fault: Fault) -> bool {
    let start = bench.log_of(disk, 3).head();
    let tree = disk.tree();
    let disk = MemoryDisk::new(tree.clone());
    disk.fail(call, fault);
    let mut done = 3;
    let mut opened = bench.open(&disk, start);
    for _ in 0..8 {
        let Ok(journal) = &mut opened else { break };
        match append(journal, &[event(done), event(done + 1)]) {
            Ok(()) => done += 2,
            Err(error) => assert_eq!(error == AuditError::NoSpace, fault == Fault::Enospc, "{error}"),
        }
    }
    let hit = disk.heal();
    let crashed = {
        let mut history = History::of(&disk, tree);
        history.advance(disk.moment());
        MemoryDisk::new(history.crash(Survives::Nothing))
    };
    // As if the power had failed with the disk.
    let mut after = bench.open(&crashed, start).unwrap();
    append(&mut after, &[]).unwrap();
    assert!(numbers(&files(&crashed)).len() >= done, "{fault:?} at {call}");
    assert!(bench.verify(&crashed, after.head()).is_sound(), "{fault:?} at {call}");
    // And without that.
    let mut journal = match opened {
        Ok(journal) => journal,
        Err(_) => bench.open(&disk, start).unwrap(),
    };
    append(&mut journal, &[event(done)]).unwrap();
    assert!(numbers(&files(&disk)).into_iter().eq(0..=done), "{fault:?} at {call}");
    let report = bench.verify(&disk, journal.head());
    assert!(report.is_sound(), "{fault:?} at {call}: {:?}", report.findings);
    assert_ne!(journal.head(), Head::START);
    hit
}
