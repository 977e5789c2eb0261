//! Opening and creating sealed files, and what is kept of an open one.

use std::collections::BTreeSet;
use std::ops::Range;

use subtle::ConstantTimeEq;

use super::map::MapCache;
use super::rewrap::ClosedHeader;
use super::{Backing, ChunkError};
use crate::crypto::aead::{self, Aead};
use crate::format::head::{Head, Kind};
use crate::format::layout::{Layout, MapPage};
use crate::format::page::Page;
use crate::format::schedule::{FileKeys, open_previous};
use crate::format::slot::{COMMITMENT_LEN, SealedKey, Slot, Wrapped};
use crate::format::state::FileState;
use crate::format::{FormatError, PAGE_LEN};
use crate::secret::Key;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RangeLock, RangeSet, RwLock};

/// An open file of sealed chunks. Safe to use from many threads at once.
pub struct SealedFile<B> {
    pub(super) backing: B,
    pub(super) head: Head,
    pub(super) layout: Layout,
    pub(super) aead: &'static dyn Aead,
    /// Size, header and session. Data I/O shares it; what changes the size or the header has it
    /// alone. Taken before any range.
    pub(super) shape: RwLock<Shape>,
    /// Chunks being read (shared) or written (exclusive), by number.
    pub(super) ranges: RangeLock,
    /// Chunks written since the last settling. Taken last.
    pub(super) written: Mutex<RangeSet>,
    /// Map pages read so far. Taken last.
    pub(super) maps: MapCache,
    /// Map pages that were written since the last settling, and so are newer than the floor that
    /// the level above has for them. Taken last.
    pub(super) rewritten: Mutex<BTreeSet<MapPage>>,
    /// A hole was punched since the last flush.
    pub(super) hole_pending: AtomicBool,
    /// Floors were lowered in map pages, which may not be durable.
    pub(super) lowering_pending: AtomicBool,
    /// A write failed halfway: which chunks it reached is not known.
    pub(super) uncertain: AtomicBool,
    /// A flush has failed: what was written before it may never reach the disk.
    pub(super) flush_failed: AtomicBool,
    /// Counts writes, changes of shape and settlings, so that settling can tell that none came in
    /// between.
    pub(super) changes: AtomicU64,
}

/// What has to stay the same while data is read or written.
#[derive(Clone)]
pub(super) struct Shape {
    /// Plaintext size in bytes, now.
    pub(super) size: u64,
    /// Whether the last chunk is known to hold only zeros behind `size`.
    pub(super) tail_is_zero: bool,
    /// The header's sealed state as last written.
    pub(super) state: FileState,
    /// Newest epoch that a chunk may have.
    pub(super) ceiling: u32,
    /// The header on disk carries the mark of the running session, whose epoch is
    /// `state.epoch`.
    pub(super) in_session: bool,
    /// The running session's first epoch; settling may have raised it since.
    pub(super) session_began: u32,
    /// The file was unsettled when it was opened: which chunks were written is not known.
    pub(super) interrupted: bool,
    pub(super) sequence: u64,
    pub(super) wrapped: Wrapped,
    pub(super) commitment: [u8; COMMITMENT_LEN],
    /// The previous data key of a file that is being re-encrypted.
    pub(super) previous: Option<SealedKey>,
    /// Which header is on the disk is not known: the next one must be there before anything relies
    /// on it.
    pub(super) in_doubt: bool,
}

/// How much a file's own evidence is worth when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// As [`Integrity::Strict`], and every file was settled: one that says otherwise shows an old
    /// header.
    Settled,
    /// The volume was unmounted properly: any disagreement is damage.
    Strict,
    /// The volume is being recovered after a crash: writes whose mark in the header was lost are
    /// no attack. Growth that was never durable is absent.
    Recovering,
}

/// An opened file and its keys.
pub struct Opened<B> {
    /// The file.
    pub file: SealedFile<B>,
    /// Its keys, for the operations on it.
    pub keys: FileKeys,
}

impl<B: std::fmt::Debug> std::fmt::Debug for SealedFile<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedFile").field("file", &self.head.object).finish_non_exhaustive()
    }
}

/// Gets a data key out of its wrapping. `E` says why that failed.
pub trait Unwrap<E>: FnOnce(&Head, &Wrapped) -> Result<std::sync::Arc<Key>, E> {}
impl<E, F: FnOnce(&Head, &Wrapped) -> Result<std::sync::Arc<Key>, E>> Unwrap<E> for F {}

impl<B: Backing> SealedFile<B> {
    /// Begins a new file in an empty backing file, unsettled and in `epoch`.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn create(
        backing: B,
        head: Head,
        data_key: &Key,
        wrapped: Wrapped,
        epoch: u32,
    ) -> Result<Opened<B>, ChunkError> {
        let keys = FileKeys::derive(data_key, head.volume, head.object);
        let shape = Shape {
            size: 0,
            tail_is_zero: true,
            state: FileState::new(epoch),
            ceiling: epoch,
            in_session: true,
            session_began: epoch,
            interrupted: false,
            sequence: 0,
            wrapped,
            commitment: keys.commitment,
            previous: None,
            in_doubt: false,
        };
        let file = Self::assemble(backing, head, shape);
        file.write_header(&mut file.shape.write(), &keys)?;
        Ok(Opened { file, keys })
    }

    /// Opens a file. Nobody may be writing to it. `unwrap` is called once, with the newest undamaged slot's wrapped key.
    ///
    /// # Errors
    /// What `unwrap` returns, [`ChunkError::Io`], and [`ChunkError::Header`] with any
    /// [`FormatError`]; [`FormatError::Blank`] means that the header was never durable.
    pub fn open<E: From<ChunkError>>(
        backing: B,
        integrity: Integrity,
        unwrap: impl Unwrap<E>,
    ) -> Result<Opened<B>, E> {
        let header = read_page(&backing)?;
        let page = Page::parse(&header, Kind::File).map_err(ChunkError::Header)?;
        Self::open_page(backing, page, integrity, unwrap)
    }

    /// The same, of a file whose header was read before. It is read again, and only if it is another one by
    /// now is it taken apart again.
    ///
    /// # Errors
    /// As [`SealedFile::open`].
    pub fn open_read<E: From<ChunkError>>(
        backing: B,
        before: ClosedHeader,
        integrity: Integrity,
        unwrap: impl Unwrap<E>,
    ) -> Result<Opened<B>, E> {
        let header = read_page(&backing)?;
        let page = match before.into_page_if(&header) {
            Some(page) => page,
            None => Page::parse(&header, Kind::File).map_err(ChunkError::Header)?,
        };
        Self::open_page(backing, page, integrity, unwrap)
    }

    fn open_page<E: From<ChunkError>>(
        backing: B,
        page: Page,
        integrity: Integrity,
        unwrap: impl Unwrap<E>,
    ) -> Result<Opened<B>, E> {
        let Some(slot) = page.slots().first() else {
            return Err(ChunkError::Header(FormatError::NoValidSlot).into());
        };
        let data_key = unwrap(&page.head, &slot.wrapped)?;
        let (keys, shape) = check(&page, &data_key, &backing, integrity)?;
        let file = Self::assemble(backing, page.head, shape);
        Ok(Opened { file, keys })
    }

    /// This file with an implementation of the cipher that was not chosen for the process, to measure
    /// it. All write and read the same.
    #[must_use]
    pub fn with_aead(self, aead: &'static dyn Aead) -> Self {
        Self { aead, ..self }
    }

    /// What the file is.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The backing file.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// Plaintext size in bytes.
    pub fn size(&self) -> u64 {
        self.shape.read().size
    }

    /// The wrapped data key as the header has it.
    pub fn wrapped(&self) -> Wrapped {
        self.shape.read().wrapped.clone()
    }

    /// Looks at the wrapped data key where it is.
    pub fn with_wrapped<R>(&self, look: impl FnOnce(&Wrapped) -> R) -> R {
        look(&self.shape.read().wrapped)
    }

    /// Whether the header vouches for every chunk as it is now.
    pub fn is_settled(&self) -> bool {
        let shape = self.shape.read();
        !shape.state.unsettled && !shape.interrupted
    }

    /// The file's keys, derived anew from its data key after they were taken away.
    ///
    /// # Errors
    /// [`FormatError::Forged`] if it is another data key.
    pub fn derive_keys(&self, data_key: &Key) -> Result<FileKeys, FormatError> {
        let shape = self.shape.read();
        let Head { volume, object, .. } = self.head;
        let keys = FileKeys::derive_checked(data_key, volume, object, &shape.commitment)?;
        add_previous(keys, data_key, &self.head, shape.previous.as_ref(), &shape.state)
    }

    /// Makes everything written so far durable with one flush of the backing file.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self, data_only: bool) -> Result<(), ChunkError> {
        let hole_pending = self.hole_pending.swap(false, Ordering::SeqCst);
        let synced = self.backing.sync(data_only);
        if synced.is_err() {
            self.hole_pending.fetch_or(hole_pending, Ordering::SeqCst);
            self.flush_failed.store(true, Ordering::SeqCst);
        }
        Ok(synced?)
    }

    /// Seals and writes the header page as `shape` has it. Not durable before a flush.
    pub(super) fn write_header(&self, shape: &mut Shape, keys: &FileKeys) -> Result<(), ChunkError> {
        let sequence = shape.sequence + 1;
        let page = Page::build(
            &self.head,
            sequence,
            &shape.wrapped,
            &shape.commitment,
            shape.previous.as_ref(),
            &shape.state.encode(),
            &keys.header,
        )?;
        // A write that fails may have left any part of the page: the next one must be newer, and
        // until it is there the file does not count as settled.
        shape.sequence = sequence;
        if let Err(error) = self.backing.write_at(&page, 0) {
            shape.interrupted = true;
            return Err(error.into());
        }
        Ok(())
    }

    /// Marks the file unsettled, in a new epoch, before its first change in a session. The caller
    /// has the shape alone.
    pub(super) fn join_session<E: From<ChunkError>>(
        &self,
        shape: &mut Shape,
        keys: &FileKeys,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        if shape.in_session {
            return Ok(());
        }
        let before = (shape.state.clone(), shape.ceiling);
        if !shape.state.unsettled {
            shape.state.min_size = shape.state.size;
            shape.state.unsettled = true;
        }
        shape.state.epoch = next_epoch(shape.state.epoch)?;
        shape.ceiling = shape.ceiling.max(shape.state.epoch);
        let marked = self.write_header(shape, keys);
        if let Err(error) = marked.and_then(|()| if shape.in_doubt { self.sync(true) } else { Ok(()) }) {
            (shape.state, shape.ceiling) = before;
            return Err(error.into());
        }
        shape.in_doubt = false;
        shape.in_session = true;
        shape.session_began = shape.state.epoch;
        Ok(())
    }

    /// Notes that chunks were written. Call with the shape held.
    pub(super) fn note_written(&self, chunks: Range<u64>) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.written.lock().insert(chunks);
    }

    fn assemble(backing: B, head: Head, shape: Shape) -> Self {
        Self {
            backing,
            layout: head.layout(),
            head,
            aead: aead::for_contents(),
            shape: RwLock::new(shape),
            ranges: RangeLock::default(),
            written: Mutex::default(),
            maps: MapCache::default(),
            rewritten: Mutex::default(),
            uncertain: AtomicBool::new(false),
            lowering_pending: AtomicBool::new(false),
            hole_pending: AtomicBool::new(false),
            flush_failed: AtomicBool::new(false),
            changes: AtomicU64::new(0),
        }
    }
}

impl Shape {
    /// Number of chunks that the header's floors speak of. Behind it a chunk may be missing.
    pub(super) fn promised_chunks(&self, layout: Layout) -> u64 {
        layout.chunks(if self.state.unsettled { self.state.min_size } else { self.state.size })
    }
}

fn read_page<B: Backing>(backing: &B) -> Result<[u8; PAGE_LEN], ChunkError> {
    let mut page = [0; PAGE_LEN];
    backing.read_at(&mut page, 0)?;
    Ok(page)
}

/// Authenticates a page and holds it against the backing file's length.
fn check<B: Backing>(
    page: &Page,
    data_key: &Key,
    backing: &B,
    integrity: Integrity,
) -> Result<(FileKeys, Shape), ChunkError> {
    let head = &page.head;
    let mut keys = FileKeys::derive(data_key, head.volume, head.object);
    let mut refused = FormatError::NoValidSlot;
    let opened = page.slots().iter().find_map(|slot| {
        let state = if bool::from(slot.commitment.ct_eq(&keys.commitment)) {
            page.open(slot, &keys.header).and_then(|state| FileState::parse(&state))
        } else {
            Err(FormatError::Forged)
        };
        state.map_err(|error| refused = error).ok().map(|state| (slot, state))
    });
    let (slot, state): (&Slot, FileState) = opened.ok_or(refused)?;
    keys = add_previous(keys, data_key, head, slot.previous.as_ref(), &state)?;
    let size = actual_size(&state, head.layout(), backing, integrity)?;
    let recovering = integrity == Integrity::Recovering;
    let shape = Shape {
        size,
        tail_is_zero: size % head.layout().payload() == 0,
        ceiling: if recovering { u32::MAX } else { state.epoch },
        in_session: false,
        session_began: 0,
        interrupted: recovering || state.unsettled,
        sequence: slot.sequence,
        wrapped: slot.wrapped.clone(),
        commitment: slot.commitment,
        previous: slot.previous,
        in_doubt: false,
        state,
    };
    Ok((keys, shape))
}

/// A file's keys and, if it is being re-encrypted, those of the data key before this one.
fn add_previous(
    keys: FileKeys,
    data_key: &Key,
    head: &Head,
    sealed: Option<&SealedKey>,
    state: &FileState,
) -> Result<FileKeys, FormatError> {
    match (sealed, state.new_key_since) {
        (None, 0) => Ok(keys),
        (Some(sealed), since @ 1..) => {
            let previous = open_previous(data_key, head.volume, head.object, sealed)?;
            let previous = FileKeys::derive(&previous, head.volume, head.object);
            Ok(keys.with_previous(previous, since))
        }
        _ => Err(FormatError::Impossible),
    }
}

fn actual_size<B: Backing>(
    state: &FileState,
    layout: Layout,
    backing: &B,
    integrity: Integrity,
) -> Result<u64, ChunkError> {
    let physical = backing.length()?;
    if state.unsettled {
        if integrity == Integrity::Settled {
            return Err(FormatError::Replayed.into());
        }
        let size = layout.logical_size(physical).ok_or(FormatError::WrongSize)?;
        return if size >= state.min_size { Ok(size) } else { Err(FormatError::WrongSize.into()) };
    }
    // Lengths do not grow with sizes: a file whose last chunk becomes full gets shorter.
    match layout.logical_size(physical) {
        Some(size) if size == state.size => {}
        Some(size) if size > state.size && integrity == Integrity::Recovering => {
            // Growth under a mark that was never durable. On a read-only volume it stays where it
            // is, behind the end.
            match backing.set_len(layout.physical_size(state.size)) {
                Err(e) if !is_read_only(&e) => return Err(e.into()),
                _ => {}
            }
        }
        _ => return Err(FormatError::WrongSize.into()),
    }
    Ok(state.size)
}

fn is_read_only(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EROFS | libc::EBADF | libc::EINVAL))
}
