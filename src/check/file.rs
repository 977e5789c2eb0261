//! Regular files: the header from whatever parts of it are good, then everything that it vouches
//! for.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use rustix::fs::Stat;

use super::finding::Finding;
use super::page::{self, Candidate, PageBytes};
use super::repair::Remedy;
use super::report::{Found, Place};
use super::scene::{Keyed, Scene};
use super::{attributes, index};
use crate::chunk::{Backing, ChunkError, Flaw, Inspector, Integrity, Opened, SealedFile};
use crate::format::floors::{ENTRIES, INLINE};
use crate::format::head::Kind;
use crate::format::layout::{Layout, MapPage, UNIT_HEAD_LEN};
use crate::format::unit::UnitHead;
use crate::format::{FormatError, PAGE_LEN};
use crate::fs::disk::DiskFile;
use crate::fs::file_context;
use crate::provider::ProviderError;

/// A file to be checked.
pub(super) struct Job {
    pub(super) place: Place,
    pub(super) file: DiskFile,
    pub(super) stat: Stat,
}

/// Checks a file. Breaks off when a signal came.
pub(super) fn check(scene: &Scene<'_>, job: Job) -> ControlFlow<()> {
    scene.ledger.lock().report.counts.files += 1;
    let place = &job.place;
    let bytes = match read_page(&job.file) {
        Ok(bytes) => bytes,
        Err(error) => {
            scene.not_readable(place, &error);
            return ControlFlow::Continue(());
        }
    };
    index::count(&mut scene.ledger.lock().counts, &bytes, job.stat.st_size);
    let candidates = match page::candidates(&bytes, Kind::File) {
        Ok(candidates) => candidates,
        Err(error) => {
            header_lost(scene, &job, error);
            return ControlFlow::Continue(());
        }
    };
    let Some(head) = candidates.first().map(|first| first.page.head) else {
        return ControlFlow::Continue(());
    };
    if scene.volume.is_some_and(|volume| volume != head.volume) {
        scene.found(place, Finding::OtherVolume(head.volume), Remedy::Quarantine);
        return ControlFlow::Continue(());
    }
    if scene.is_copy(head.object, job.stat.st_ino) {
        scene.found(place, Finding::DuplicateId(head.object), None);
    }
    match scene.keyed {
        Some(keyed) => check_with_keys(scene, keyed, job, &bytes, candidates),
        None => {
            check_without_keys(scene, &job, &bytes, &candidates);
            ControlFlow::Continue(())
        }
    }
}

/// A file's first page; a file that is shorter reads as if zeros followed.
///
/// # Errors
/// As pread(2).
pub(super) fn read_page(file: &DiskFile) -> io::Result<PageBytes> {
    let mut page = [0; PAGE_LEN];
    file.read_at(&mut page, 0)?;
    Ok(page)
}

fn header_lost(scene: &Scene<'_>, job: &Job, error: FormatError) {
    let recovering = scene.keyed.is_some_and(|keyed| keyed.integrity == Integrity::Recovering);
    let (finding, remedy) = match error {
        // A header that was never durable, of a file in which nothing ever was.
        FormatError::Blank if recovering => {
            let is_empty = job.file.seek_data(0).is_ok_and(|at| at.is_none())
                || job.stat.st_size <= PAGE_LEN.cast_signed() as i64;
            (Finding::Unsettled, if is_empty { Remedy::Settle } else { Remedy::Quarantine })
        }
        FormatError::UnknownVersion(_) | FormatError::UnknownFeatures(_) => {
            return scene.found(&job.place, Finding::HeaderLost(error), None);
        }
        error => (Finding::HeaderLost(error), Remedy::Quarantine),
    };
    scene.found(&job.place, finding, remedy);
}

fn check_without_keys(scene: &Scene<'_>, job: &Job, bytes: &PageBytes, candidates: &[Candidate]) {
    let Some(first) = candidates.first() else { return };
    for part in page::differences(bytes, &first.bytes) {
        scene.found(&job.place, Finding::PartDamaged(part), None);
    }
    let layout = first.page.head.layout();
    let length = job.stat.st_size.cast_unsigned();
    if length < PAGE_LEN as u64 || layout.logical_size(length).is_none() {
        scene.found(&job.place, Finding::WrongLength { length }, None);
    }
    check_maps_without_keys(scene, job, layout);
    attributes::check(scene, &job.place, &job.file, None);
}

/// A map page is a hole or has an epoch.
fn check_maps_without_keys(scene: &Scene<'_>, job: &Job, layout: Layout) {
    let chunks = layout.chunks(layout.nearest_size(job.stat.st_size.cast_unsigned()));
    let groups = chunks.saturating_sub(INLINE).div_ceil(ENTRIES);
    let mut next_data = 0;
    for index in 0..groups {
        let page = MapPage { level: 1, index };
        let offset = layout.map_offset(page);
        if next_data <= offset {
            next_data = match job.file.seek_data(offset) {
                Ok(Some(at)) => at,
                Ok(None) => break,
                Err(_) => offset,
            };
        }
        let mut head = [0; UNIT_HEAD_LEN];
        if next_data >= offset + PAGE_LEN as u64 || job.file.read_at(&mut head, offset).is_err() {
            continue;
        }
        if UnitHead::parse(&head).epoch == 0 && head != [0; UNIT_HEAD_LEN] {
            let finding = Finding::Map { page, chunks: 0..0, error: FormatError::Impossible };
            scene.found(&job.place, finding, None);
        }
    }
}

fn check_with_keys(
    scene: &Scene<'_>,
    keyed: Keyed<'_>,
    job: Job,
    bytes: &PageBytes,
    candidates: Vec<Candidate>,
) -> ControlFlow<()> {
    let Job { place, file, stat } = job;
    let file = Arc::new(file);
    let mut refused = None;
    for candidate in candidates {
        let backing = Patched { file: Arc::clone(&file), page: candidate.bytes };
        match open(keyed, backing) {
            Ok(opened) => {
                for part in page::differences(bytes, &candidate.bytes) {
                    let remedy = Remedy::WritePage(candidate.bytes.into());
                    scene.found(&place, Finding::PartDamaged(part), remedy);
                }
                return check_opened(scene, &place, &stat, &opened);
            }
            // It is authentic: what it says counts, and no older one.
            Err(
                error @ Refusal::Chunk(ChunkError::Header(FormatError::WrongSize | FormatError::Replayed)),
            ) => {
                refused = Some(error);
                break;
            }
            Err(error) => _ = refused.get_or_insert(error),
        }
    }
    match refused {
        Some(Refusal::Chunk(ChunkError::Header(FormatError::WrongSize))) => {
            scene.found(&place, Finding::WrongLength { length: stat.st_size.cast_unsigned() }, None);
        }
        Some(Refusal::Chunk(ChunkError::Header(error))) => {
            // An old header is authentic and readable by hand: it is not for us to put aside.
            let remedy = (error != FormatError::Replayed).then_some(Remedy::Quarantine);
            scene.found(&place, Finding::HeaderLost(error), remedy);
        }
        Some(Refusal::Chunk(ChunkError::Io(error))) => scene.not_readable(&place, &error),
        Some(Refusal::Chunk(error)) => scene.not_readable(&place, &io::Error::other(error)),
        Some(Refusal::Key(ProviderError::InvalidCiphertext(_), _)) => {
            scene.found(&place, Finding::KeyForged, Remedy::Quarantine);
        }
        Some(Refusal::Key(error, key)) => {
            let why = format!("key {key} {}", state(&error));
            *scene.ledger.lock().report.not_checked.entry(why).or_default() += 1;
        }
        None => {}
    }
    ControlFlow::Continue(())
}

/// What is to be said of a key that is not usable.
fn state(error: &ProviderError) -> String {
    match error {
        ProviderError::Disabled(_) => "is Disabled".to_owned(),
        ProviderError::PendingDeletion(_) => "is PendingDeletion".to_owned(),
        ProviderError::PendingImport(_) => "is PendingImport".to_owned(),
        ProviderError::NotFound(_) => "is not in this key store".to_owned(),
        ProviderError::AccessDenied(_) => "may not be used by this user".to_owned(),
        other => format!("cannot be had: {other}"),
    }
}

enum Refusal {
    Chunk(ChunkError),
    /// The master key's ARN with it.
    Key(ProviderError, String),
}

impl From<ChunkError> for Refusal {
    fn from(error: ChunkError) -> Self {
        Self::Chunk(error)
    }
}

fn open(keyed: Keyed<'_>, backing: Patched) -> Result<Opened<Patched>, Refusal> {
    SealedFile::open(backing, keyed.integrity, |head, wrapped| {
        let context = file_context(head.volume, head.object);
        let unwrapped = keyed.provider.unwrap(&wrapped.blob, &context);
        unwrapped.map(|key| Arc::new(key.plaintext)).map_err(|e| Refusal::Key(e, wrapped.key_arn.clone()))
    })
}

/// Whether a file is settled now, strictly looked at.
pub(super) fn is_settled(keyed: Keyed<'_>, file: DiskFile) -> bool {
    let Ok(page) = read_page(&file) else { return false };
    let strict = Keyed { integrity: Integrity::Strict, ..keyed };
    let opened = open(strict, Patched { file: Arc::new(file), page });
    opened.is_ok_and(|opened| !opened.file.mark().unsettled)
}

fn check_opened(scene: &Scene<'_>, place: &Place, stat: &Stat, opened: &Opened<Patched>) -> ControlFlow<()> {
    let (file, keys) = (&opened.file, &opened.keys);
    let layout = file.head().layout();
    let mark = file.mark();
    attributes::check(scene, place, file.backing(), Some((&keys.xattr_keys(), file.head().object)));
    let mut notes = Notes { scene, found: Vec::new() };
    let newest = file.verify(keys, !scene.headers_only, &mut notes);
    for finding in notes.found {
        scene.found_within(Found::within(place.clone(), finding, layout, file.size()), None);
    }
    let ControlFlow::Continue(newest) = newest else { return ControlFlow::Break(()) };
    let grown = layout.logical_size(stat.st_size.cast_unsigned()) != Some(file.size());
    if mark.reencrypting {
        scene.found(place, Finding::Reencrypting, None);
    }
    if mark.unsettled || newest > mark.epoch || grown {
        scene.found(place, Finding::Unsettled, Remedy::Settle);
    }
    let epoch = mark.epoch.max(newest);
    let reserved = scene.keyed.map_or(u32::MAX, |keyed| keyed.volume.epochs_reserved());
    if epoch >= reserved {
        scene.found(place, Finding::EpochsBehind { epoch, reserved }, Remedy::RaiseEpochs);
    }
    let mut ledger = scene.ledger.lock();
    ledger.newest_epoch = ledger.newest_epoch.max(epoch);
    ControlFlow::Continue(())
}

/// Gathers what is wrong, adjacent chunks together.
struct Notes<'a> {
    scene: &'a Scene<'a>,
    found: Vec<Finding>,
}

impl Inspector for Notes<'_> {
    fn flaw(&mut self, flaw: Flaw) {
        let finding = match flaw {
            Flaw::Chunk { chunk, error } => Finding::Chunks { chunks: chunk..chunk + 1, error },
            Flaw::Map { page, chunks, error } => Finding::Map { page, chunks, error },
            Flaw::Unreadable { chunks, error } => {
                Finding::Unreadable { chunks, errno: error.raw_os_error().unwrap_or(libc::EIO) }
            }
        };
        if !self.found.last_mut().is_some_and(|last| last.absorb(&finding)) {
            self.found.push(finding);
        }
    }

    fn looked_at(&mut self, bytes: u64) -> ControlFlow<()> {
        self.scene.progress.read(bytes);
        self.scene.ledger.lock().report.counts.bytes += bytes;
        if self.scene.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A backing file with another first page, which cannot be written.
struct Patched {
    file: Arc<DiskFile>,
    page: PageBytes,
}

impl std::os::fd::AsFd for Patched {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EROFS))
}

impl Backing for Patched {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        let Some(page) = usize::try_from(offset).ok().and_then(|offset| self.page.get(offset..)) else {
            return Ok(read);
        };
        let len = page.len().min(buffer.len());
        buffer[..len].copy_from_slice(&page[..len]);
        Ok(read.max(len))
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        self.file.seek_hole(offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        read_only()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        read_only()
    }

    fn sync(&self, _: bool) -> io::Result<()> {
        read_only()
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        read_only()
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        read_only()
    }
}
