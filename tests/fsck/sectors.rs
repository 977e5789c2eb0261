//! A disk with bad sectors: exactly the chunks on them are named, and everything else is checked.

use std::io;
use std::ops::{ControlFlow, Range};

use kmsfs::chunk::{Backing, ChunkError, Flaw, Inspector, Integrity, Memory, Opened, SealedFile};
use kmsfs::format::Id;
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::layout::{Layout, MapPage};
use kmsfs::format::slot::Wrapped;
use kmsfs::secret::Key;
use rustix::io::Errno;

use crate::bench::{PAGE, PAYLOAD, unit};

/// A backing file in memory, of which some bytes cannot be read.
#[derive(Debug, Default)]
struct BadDisk {
    memory: Memory,
    bad: Vec<Range<u64>>,
}

impl Backing for BadDisk {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset + buffer.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(Errno::IO.into());
        }
        self.memory.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.memory.write_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.memory.length()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.memory.sync(data_only)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.memory.punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.memory.allocate(offset, len)
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.memory.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        self.memory.seek_hole(offset)
    }
}

/// A settled file of 1300 chunks, on a disk where these bytes are bad.
fn file(bad: Vec<Range<u64>>) -> Opened<BadDisk> {
    let key = || Key::take_from(&mut [9; 32]);
    let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
    let made = SealedFile::create(Memory::default(), head, &key(), Wrapped::default(), 1).unwrap();
    made.file.write(&made.keys, 0, &vec![5; 1300 * PAYLOAD as usize], |_| Ok::<_, ChunkError>(1)).unwrap();
    let next = |newest| Ok::<_, ChunkError>(newest + 1);
    let mut settling = made.file.begin_settling(&made.keys, next).unwrap().unwrap();
    while made.file.settle(&made.keys, &mut settling).unwrap() != kmsfs::chunk::Step::Done {}
    let memory = Memory::default();
    memory.replace(made.file.backing().snapshot());
    let backing = BadDisk { memory, bad };
    SealedFile::open(backing, Integrity::Settled, |_, _| Ok::<_, ChunkError>(key().into())).unwrap()
}

#[derive(Default)]
struct Notes {
    unreadable: Vec<Range<u64>>,
    bytes: u64,
}

impl Inspector for Notes {
    fn flaw(&mut self, flaw: Flaw) {
        match flaw {
            Flaw::Unreadable { chunks, error } => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                self.unreadable.push(chunks);
            }
            other => panic!("{other:?}"),
        }
    }

    fn looked_at(&mut self, bytes: u64) -> ControlFlow<()> {
        self.bytes += bytes;
        ControlFlow::Continue(())
    }
}

fn verify(bad: Vec<Range<u64>>) -> Notes {
    let opened = file(bad);
    let mut notes = Notes::default();
    assert_eq!(opened.file.verify(&opened.keys, true, &mut notes), ControlFlow::Continue(1));
    notes
}

#[test]
fn a_good_disk_has_no_flaws() {
    let notes = verify(Vec::new());
    assert_eq!((notes.unreadable.len(), notes.bytes), (0, 1300 * PAGE as u64));
}

#[test]
fn only_the_chunks_on_bad_sectors_are_unreadable() {
    let sector = |chunk: u64| unit(chunk) + 1024..unit(chunk) + 1536;
    let notes = verify(vec![sector(0), sector(40), sector(41), sector(1299)]);
    assert_eq!(notes.unreadable, [0..1, 40..41, 41..42, 1299..1300]);
}

#[test]
fn a_map_page_on_a_bad_sector_takes_its_own_chunks_and_no_others() {
    let page = Layout::default().map_offset(MapPage { level: 1, index: 0 });
    let notes = verify(std::iter::once(page..page + 1).collect());
    assert_eq!((notes.unreadable.len(), &notes.unreadable[0]), (1, &(128..1144)));
    assert_eq!(notes.bytes, (128 + 1300 - 1144) * PAGE as u64);
}
