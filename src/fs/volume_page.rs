//! The volume's page on disk: its two copies, and which of them counts.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::disk::{Disk, DiskFile};
use super::volume::{VolumeError, explain};
use crate::chunk::Backing;
use crate::format::head::Kind;
use crate::format::page::Page;
use crate::format::schedule::VolumeKeys;
use crate::format::slot::Wrapped;
use crate::format::state::VolumeState;
use crate::format::{FormatError, Id, PAGE_LEN, VOLUME_COPY_NAME, VOLUME_NAME};
use crate::kms::EncryptionContext;
use crate::provider::Provider;

/// Mode of the volume's page.
const PAGE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Encryption context of the volume key.
pub(super) fn context(volume: Id) -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:volume", volume.to_string())
}

/// Writes a file that is there whole or not at all.
pub(super) fn write_new(disk: &Disk, root: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let aside = format!("{name}.new");
    let written = (|| {
        let file = disk.create(root, &aside, OFlags::TRUNC, PAGE_MODE)?;
        file.write_at(bytes, 0)?;
        file.sync(false)?;
        disk.rename((root, &aside), (root, name), RenameFlags::empty())?;
        Ok(disk.sync(root)?)
    })();
    if written.is_err() {
        let _ = disk.unlink(root, &aside);
    }
    written
}

/// Opens the page and its copy; one that is missing is made anew from the other.
pub(super) fn open_pages(
    disk: &Disk,
    root: &OwnedFd,
    shown: &str,
    read_only: bool,
) -> Result<[DiskFile; 2], VolumeError> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let open = |name| disk.open(root, name, access);
    let restore = |name, from: &DiskFile| -> io::Result<DiskFile> {
        if read_only {
            return Ok(disk.reopen_file(from, access)?);
        }
        let mut page = [0; PAGE_LEN];
        from.read_at(&mut page, 0)?;
        let file = disk.create(root, name, OFlags::empty(), PAGE_MODE)?;
        file.write_at(&page, 0)?;
        file.sync(false)?;
        Ok(file)
    };
    match (open(VOLUME_NAME), open(VOLUME_COPY_NAME)) {
        (Ok(main), Ok(copy)) => Ok([main, copy]),
        (Err(Errno::NOENT), Err(Errno::NOENT)) => Err(VolumeError::NotAVolume(shown.to_owned())),
        (Err(Errno::NOENT), Ok(copy)) => {
            tracing::warn!("{shown}: {VOLUME_NAME} is missing; using its copy");
            Ok([restore(VOLUME_NAME, &copy).map_err(|e| explain(shown, e))?, copy])
        }
        (Ok(main), Err(Errno::NOENT)) => {
            tracing::warn!("{shown}: {VOLUME_COPY_NAME} is missing; making it anew");
            let copy = restore(VOLUME_COPY_NAME, &main).map_err(|e| explain(shown, e))?;
            Ok([main, copy])
        }
        (Err(e), _) | (_, Err(e)) => Err(explain(shown, e.into())),
    }
}

/// The pages that can be read, the newest first; there is at least one.
pub(super) fn read_pages(files: &[DiskFile; 2]) -> Result<Vec<Page>, FormatError> {
    let mut pages = Vec::new();
    let mut refused = FormatError::NotKmsfs;
    for file in files {
        let mut bytes = [0; PAGE_LEN];
        match file.read_at(&mut bytes, 0).map(|_| Page::parse(&bytes, Kind::Volume)) {
            Ok(Ok(page)) => pages.push(page),
            Ok(Err(error)) if refused == FormatError::NotKmsfs => refused = error,
            _ => {}
        }
    }
    pages.sort_by_key(|page| std::cmp::Reverse(page.slots().first().map(|slot| slot.sequence)));
    if pages.is_empty() { Err(refused) } else { Ok(pages) }
}

/// The newest page that is authentic.
pub(super) fn unwrap_any(
    pages: Vec<Page>,
    provider: &dyn Provider,
    shown: &str,
) -> Result<(Page, VolumeKeys, OpenedState), VolumeError> {
    let mut refused = None;
    for page in pages {
        match unwrap(&page, provider, shown) {
            Ok((keys, opened)) => return Ok((page, keys, opened)),
            Err(error) => _ = refused.get_or_insert(error),
        }
    }
    Err(refused.unwrap_or(VolumeError::Format(shown.to_owned(), FormatError::NoValidSlot)))
}

/// What an authentic page says: its sequence number, wrapped key and state.
pub(super) type OpenedState = (u64, Wrapped, VolumeState);

fn unwrap(
    page: &Page,
    provider: &dyn Provider,
    shown: &str,
) -> Result<(VolumeKeys, OpenedState), VolumeError> {
    let id = page.head.object;
    let mut refused = FormatError::NoValidSlot;
    for slot in page.slots() {
        let key = provider.unwrap(&slot.wrapped.blob, &context(id))?.plaintext;
        let opened = VolumeKeys::derive_checked(&key, id, &slot.commitment).and_then(|keys| {
            let state = VolumeState::parse(&page.open(slot, &keys.header)?)?;
            Ok((keys, (slot.sequence, slot.wrapped.clone(), state)))
        });
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error) => refused = error,
        }
    }
    Err(VolumeError::Format(shown.to_owned(), refused))
}
