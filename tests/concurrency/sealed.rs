//! A sealed file on a disk whose every page is a chance for others, and which remembers what it
//! held.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kmsfs::chunk::{Backing, ChunkError, Integrity, Memory, Opened, SealedFile, Step};
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::schedule::FileKeys;
use kmsfs::format::slot::Wrapped;
use kmsfs::format::{Id, PAGE_LEN};
use kmsfs::secret::{KEY_LEN, Key};
use kmsfs::sync::atomic::{AtomicU32, Ordering};

use crate::explore::pause;

/// Plaintext of a chunk.
pub(crate) const PAYLOAD: usize = 4064;
/// The first chunk whose floor is not in the header but on a map page.
pub(crate) const FAR: u64 = 128;

/// A disk in memory that is interrupted before each page. Pages alone are atomic.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    memory: Arc<Memory>,
    past: Arc<Mutex<Past>>,
}

#[derive(Default)]
struct Past {
    /// What the flush that began last of those that ended made durable, and its number.
    durable: Vec<u8>,
    flushed: u32,
    /// Flushes that have begun.
    flushes: u32,
    /// What every page but the header held at some time, by offset.
    pages: BTreeMap<u64, Vec<Vec<u8>>>,
    /// What a crash would leave that loses everything since a flush, but for a header written then.
    crashes: Vec<Vec<u8>>,
}

impl Disk {
    fn past<T>(&self, look: impl FnOnce(&mut Past) -> T) -> T {
        look(&mut self.past.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, page: &[u8], offset: u64) {
        self.past(|past| {
            if offset > 0 {
                return past.pages.entry(offset).or_default().push(page.to_vec());
            }
            let mut image = past.durable.clone();
            image.resize(image.len().max(PAGE_LEN), 0);
            image[..page.len()].copy_from_slice(page);
            past.crashes.push(image);
        });
    }
}

impl Backing for Disk {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        for (page, at) in buffer.chunks_mut(PAGE_LEN).zip((offset..).step_by(PAGE_LEN)) {
            pause();
            done += self.memory.read_at(page, at)?;
        }
        Ok(done)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        for (page, at) in buffer.chunks(PAGE_LEN).zip((offset..).step_by(PAGE_LEN)) {
            pause();
            self.memory.write_at(page, at)?;
            self.note(page, at);
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.memory.length()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        pause();
        self.memory.set_len(len)
    }

    /// Only what was written when the flush began is sure to be durable.
    fn sync(&self, _data_only: bool) -> io::Result<()> {
        let durable = self.memory.snapshot();
        let number = self.past(|past| {
            past.flushes += 1;
            past.flushes
        });
        pause();
        self.past(|past| {
            if number > past.flushed {
                (past.durable, past.flushed) = (durable, number);
            }
        });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        pause();
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

/// An open file with its key.
pub(crate) struct Sealed {
    disk: Disk,
    key: Arc<Key>,
    file: SealedFile<Disk>,
    keys: FileKeys,
    epoch: Arc<AtomicU32>,
}

impl Sealed {
    /// An empty file.
    pub(crate) fn create() -> Self {
        let disk = Disk::default();
        let key = Arc::new(Key::take_from(&mut [5; KEY_LEN]));
        let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let Opened { file, keys } =
            SealedFile::create(disk.clone(), head, &key, Wrapped::default(), 1).unwrap();
        Self { disk, key, file, keys, epoch: Arc::new(AtomicU32::new(2)) }
    }

    pub(crate) fn write(&self, at: u64, data: &[u8]) {
        self.file.write(&self.keys, at, data, |newest| self.next_epoch(newest)).unwrap();
    }

    pub(crate) fn truncate(&self, size: u64) {
        self.file.truncate(&self.keys, size, |newest| self.next_epoch(newest)).unwrap();
    }

    pub(crate) fn punch(&self, from: u64, to: u64) {
        self.file.punch(&self.keys, from..to, |newest| self.next_epoch(newest)).unwrap();
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        self.try_read(at, len).unwrap()
    }

    fn try_read(&self, at: u64, len: usize) -> Result<Vec<u8>, ChunkError> {
        let mut out = vec![0; len];
        let read = self.file.read(&self.keys, at, &mut out)?;
        out.truncate(read);
        Ok(out)
    }

    pub(crate) fn size(&self) -> u64 {
        self.file.size()
    }

    pub(crate) fn sync(&self) {
        self.file.sync(true).unwrap();
    }

    /// Settles once, if nobody changes the file meanwhile. Answers whether nobody did.
    pub(crate) fn settle(&self) -> bool {
        let begun = self.file.begin_settling(&self.keys, |newest| self.next_epoch(newest)).unwrap();
        let Some(mut settling) = begun else { return true };
        loop {
            self.sync();
            match self.file.settle(&self.keys, &mut settling).unwrap() {
                Step::Flush => {}
                Step::Done => return true,
                Step::Busy => return false,
            }
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.file.is_settled()
    }

    /// The file as whoever opens it next finds it, on a volume that was unmounted properly.
    pub(crate) fn reopened(&self) -> Self {
        self.opened_from(self.disk.memory.snapshot(), Integrity::Settled).unwrap()
    }

    /// The files that crashes would have left at one time or another.
    pub(crate) fn crashed(&self) -> Vec<Self> {
        let images = self.disk.past(|past| std::mem::take(&mut past.crashes));
        images.into_iter().map(|image| self.opened_from(image, Integrity::Recovering).unwrap()).collect()
    }

    /// The file with a page of its past back in place, for each that the file no longer holds and
    /// that was written before `epoch`; with what reading `len` bytes at `at` gives then.
    pub(crate) fn replayed(&self, epoch: u32, at: u64, len: usize) -> Vec<Result<Vec<u8>, ChunkError>> {
        let pages = self.disk.past(|past| past.pages.clone());
        let now = self.disk.memory.snapshot();
        let mut outcomes = Vec::new();
        for (offset, versions) in pages {
            let place = offset as usize..offset as usize + PAGE_LEN;
            for version in versions.iter().filter(|v| v.len() == PAGE_LEN && epoch_of(v) < epoch) {
                if now.get(place.clone()).is_some_and(|page| epoch_of(page) >= epoch) {
                    let mut image = now.clone();
                    image[place.clone()].copy_from_slice(version);
                    let file = self.opened_from(image, Integrity::Settled).unwrap();
                    outcomes.push(file.try_read(at, len));
                }
            }
        }
        outcomes
    }

    /// The epoch that a session begun now would get.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn opened_from(&self, image: Vec<u8>, integrity: Integrity) -> Result<Self, ChunkError> {
        let disk = Disk::default();
        disk.memory.replace(image);
        let key = Arc::clone(&self.key);
        let Opened { file, keys } =
            SealedFile::open(disk.clone(), integrity, |_, _| Ok::<_, ChunkError>(key))?;
        Ok(Self { disk, key: Arc::clone(&self.key), file, keys, epoch: Arc::clone(&self.epoch) })
    }

    fn next_epoch(&self, newest: u32) -> Result<u32, ChunkError> {
        Ok(self.epoch.fetch_add(1, Ordering::SeqCst).max(newest + 1))
    }
}

/// The epoch in a unit's or map page's head.
fn epoch_of(page: &[u8]) -> u32 {
    u32::from_le_bytes(page[28..32].try_into().unwrap())
}
