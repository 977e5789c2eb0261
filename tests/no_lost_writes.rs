//! A key is taken away and given back again and again while programs write under it. Whatever they were
//! told is written is there afterwards, and so is what the kernel had of them when it was taken away.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::dice::Dice;
use common::{RaiseOnDrop, World};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

const ROUNDS: u32 = 12;
/// Records of a file; each is a page and has the same number in each of its words.
const RECORDS: usize = 64;
const RECORD: usize = 4096;
/// Records between two flushes.
const FLUSHED: u64 = 16;
/// How long a writer that was refused waits.
const PAUSE: Duration = Duration::from_millis(2);

/// How a program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// By write(2), which returns when it is stored.
    Written,
    /// By write(2), where the kernel gathers writes.
    Gathered,
    /// To a shared mapping.
    Mapped,
}

/// What became of one record, by the numbers written to it, which grow.
#[derive(Default)]
struct Record {
    /// The last number whose writing was begun.
    begun: AtomicU64,
    /// The last one whose writing returned without an error, since the key is usable.
    returned: AtomicU64,
    /// The last one that must be there.
    promised: AtomicU64,
}

/// A file and who writes to it.
struct Program {
    how: How,
    file: File,
    mapping: Option<Mapping>,
    records: Vec<Record>,
    refused: AtomicU64,
}

struct Mapping(*mut u8);

// SAFETY: threads touch it by system calls alone.
unsafe impl Sync for Mapping {}
// SAFETY: the same.
unsafe impl Send for Mapping {}

impl Program {
    fn new(how: How, path: &Path) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len((RECORDS * RECORD) as u64).unwrap();
        let mapping = (how == How::Mapped).then(|| {
            let (protection, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            // SAFETY: a new mapping, of the file's length, which nobody truncates.
            let at = unsafe {
                rustix::mm::mmap(std::ptr::null_mut(), RECORDS * RECORD, protection, shared, &file, 0)
            };
            Mapping(at.unwrap().cast())
        });
        let records = (0..RECORDS).map(|_| Record::default()).collect();
        Self { how, file, mapping, records, refused: AtomicU64::new(0) }
    }

    /// Writes until it is to stop.
    fn run(&self, stop: &AtomicBool, usable: &RwLock<Option<u32>>, seed: u64) {
        let mut dice = Dice::new(seed);
        let source = File::from(rustix::fs::memfd_create("record", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let mut written = Vec::new();
        for number in 1.. {
            if stop.load(SeqCst) {
                return;
            }
            let at = dice.below(RECORDS);
            let record = &self.records[at];
            record.begun.store(number, SeqCst);
            let usable_at_first = *usable.read().unwrap();
            if self.write(at, number, &source) {
                let usable = usable.read().unwrap();
                if usable.is_some() && *usable == usable_at_first {
                    record.returned.store(number, SeqCst);
                }
                drop(usable);
                written.push((at, number));
                if self.how == How::Written {
                    record.promised.store(number, SeqCst);
                }
            } else {
                self.refused.fetch_add(1, SeqCst);
                std::thread::sleep(PAUSE);
            }
            if number % FLUSHED == 0 {
                if self.flush() {
                    written.iter().for_each(|&(at, number)| {
                        self.records[at].promised.fetch_max(number, SeqCst);
                    });
                }
                written.clear();
            }
        }
    }

    fn write(&self, at: usize, number: u64, source: &File) -> bool {
        let words = number.to_le_bytes().repeat(RECORD / 8);
        let Some(mapping) = &self.mapping else {
            return self.file.write_all_at(&words, (at * RECORD) as u64).is_ok();
        };
        source.write_all_at(&words, 0).unwrap();
        // Storing to a page that cannot be had raises a signal; having the kernel store there fails.
        let (descriptor, page) = (source.as_raw_fd(), mapping.0.wrapping_add(at * RECORD));
        // SAFETY: the call writes to the record's page of the mapping.
        let copied = unsafe { libc::pread(descriptor, page.cast(), RECORD, 0) };
        copied == RECORD as isize
    }

    fn flush(&self) -> bool {
        let Some(mapping) = &self.mapping else { return self.file.sync_data().is_ok() };
        // SAFETY: all of the mapping.
        unsafe { rustix::mm::msync(mapping.0.cast(), RECORDS * RECORD, MsyncFlags::SYNC).is_ok() }
    }

    /// What was written so far must be there when the key was taken away after this.
    fn promise_what_returned(&self) {
        for record in &self.records {
            record.promised.fetch_max(record.returned.swap(0, SeqCst), SeqCst);
        }
    }

    /// Numbers that must be there now.
    fn promised(&self) -> Vec<u64> {
        self.records.iter().map(|record| record.promised.load(SeqCst)).collect()
    }

    #[track_caller]
    fn assert_there(&self, contents: &[u8], promised: &[u64], round: u32) {
        assert_eq!(contents.len(), RECORDS * RECORD);
        for (at, (record, least)) in self.records.iter().zip(promised).enumerate() {
            let most = record.begun.load(SeqCst);
            for word in contents[at * RECORD..][..RECORD].chunks(8) {
                let number = u64::from_le_bytes(word.try_into().unwrap());
                let how = self.how;
                assert!(
                    (*least..=most).contains(&number),
                    "round {round}, {how:?}, record {at}: {number} is not in {least}..={most}"
                );
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mapping) = &self.mapping {
            // SAFETY: the mapping made at the beginning, which nobody uses any more.
            let _ = unsafe { rustix::mm::munmap(mapping.0.cast(), RECORDS * RECORD) };
        }
    }
}

#[test]
fn what_programs_wrote_survives_every_revocation() {
    let Some(world) = World::new("what_programs_wrote_survives_every_revocation") else { return };
    world.run(&["init", "plain"]);
    world.run(&["init", "gathering"]);
    let plain = world.mount("plain", &[]);
    let gathering = world.mount("gathering", &["-o", "writeback"]);
    world.run(&["key", "create", "--alias", "secret"]);
    for mount in [&plain, &gathering] {
        world.run(&["key", "assign", "alias/secret", mount.to_str().unwrap()]);
    }
    let paths = [
        (How::Written, plain.join("written")),
        (How::Mapped, plain.join("mapped")),
        (How::Gathered, gathering.join("gathered")),
        (How::Mapped, gathering.join("mapped")),
    ];
    let programs: Vec<Program> = paths.iter().map(|(how, path)| Program::new(*how, path)).collect();
    let stop = AtomicBool::new(false);
    // In which round the key can be used, if it can.
    let usable = RwLock::new(Some(0));
    let mut dice = Dice::new(1);
    std::thread::scope(|scope| {
        let _stopped = RaiseOnDrop(&stop);
        for (seed, program) in programs.iter().enumerate() {
            let (stop, usable) = (&stop, &usable);
            scope.spawn(move || program.run(stop, usable, seed as u64));
        }
        for round in 0..ROUNDS {
            std::thread::sleep(Duration::from_millis(dice.below(80) as u64));
            *usable.write().unwrap() = None;
            programs.iter().for_each(Program::promise_what_returned);
            let disabled = world.try_run(&["key", "disable", "alias/secret", "--yes"]).ok();
            for (how, path) in &paths {
                // What the kernel gathers between the last writing back and the cut is named and lost.
                let named = disabled.stderr.contains(path.to_str().unwrap());
                assert!(!named || *how == How::Gathered, "{disabled:?}");
            }
            let promised: Vec<Vec<u64>> = programs.iter().map(Program::promised).collect();
            world.run(&["key", "enable", "alias/secret"]);
            for ((program, (_, path)), promised) in programs.iter().zip(&paths).zip(&promised) {
                program.assert_there(&std::fs::read(path).unwrap(), promised, round);
            }
            *usable.write().unwrap() = Some(round + 1);
        }
    });
    for program in &programs {
        assert!(program.refused.load(SeqCst) > 0 || program.how == How::Gathered, "{:?}", program.how);
        program.promise_what_returned();
        assert!(program.flush(), "{:?}", program.how);
    }
    // The same from the disk.
    let promised: Vec<Vec<u64>> = programs.iter().map(Program::promised).collect();
    let programs: Vec<Program> = programs
        .into_iter()
        .map(|mut program| {
            if let Some(mapping) = program.mapping.take() {
                // SAFETY: the mapping made at the beginning, which nobody uses any more.
                unsafe { rustix::mm::munmap(mapping.0.cast(), RECORDS * RECORD).unwrap() };
            }
            program.file = File::open("/dev/null").unwrap();
            program
        })
        .collect();
    for (name, mount) in [("plain", &plain), ("gathering", &gathering)] {
        world.umount(mount);
        world.mount(name, &[]);
    }
    for ((program, (_, path)), promised) in programs.iter().zip(&paths).zip(&promised) {
        program.assert_there(&std::fs::read(path).unwrap(), promised, ROUNDS);
    }
    for mount in [&plain, &gathering] {
        world.umount(mount);
    }
}
