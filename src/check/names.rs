//! Backing names: what kind of entry each is, and whether it opens in its directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use data_encoding::BASE64URL_NOPAD;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::finding::Finding;
use super::repair::Remedy;
use super::report::Place;
use super::scene::Scene;
use crate::chunk::Backing;
use crate::crypto::TAG_LEN;
use crate::crypto::kdf::sha256;
use crate::format::index::INDEX_NAME;
use crate::format::{DIRECTORY_NAME, RESERVED_PREFIX, VOLUME_COPY_NAME, VOLUME_NAME};
use crate::fs::disk::DiskFile;
use crate::names::target::TARGETS_NAME;
use crate::names::{self, Entry, LONG_PREFIX, MAX_NAME_LEN, MAX_SIDECAR_LEN, SIDECAR_SUFFIX};
use crate::secret::Key;

/// Where repairs put what they cannot prove, in the volume's root.
pub const LOST_NAME: &str = "kmsfs.lost+found";
/// Names are padded to a multiple of this.
const PAD: usize = 16;

/// What a backing name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// kmsfs's own, and looked at elsewhere.
    Own,
    /// The directory of stored targets.
    Targets,
    /// Where repairs put things.
    Lost,
    /// Left by something that was interrupted.
    Leftover,
    /// The sidecar of a long name.
    Sidecar,
    /// An entry whose name is in its sidecar.
    Long,
    /// An entry with an encrypted name.
    Sealed,
    /// None of the volume's.
    Foreign,
}

/// Tells what a backing name is for, without a key.
pub(super) fn form(name: &str, in_root: bool) -> Form {
    if let Some(long) = name.strip_prefix(LONG_PREFIX) {
        let (hash, form) = match long.strip_suffix(SIDECAR_SUFFIX) {
            Some(hash) => (hash, Form::Sidecar),
            None => (long, Form::Long),
        };
        let is_hash = BASE64URL_NOPAD.decode(hash.as_bytes()).is_ok_and(|hash| hash.len() == 32);
        return if is_hash { form } else { Form::Foreign };
    }
    if name.starts_with(RESERVED_PREFIX) {
        let own = [VOLUME_NAME, VOLUME_COPY_NAME, INDEX_NAME];
        let is_leftover = || own.iter().any(|own| name == format!("{own}.new"));
        return match name {
            VOLUME_NAME | VOLUME_COPY_NAME | INDEX_NAME if in_root => Form::Own,
            TARGETS_NAME if in_root => Form::Targets,
            LOST_NAME if in_root => Form::Lost,
            DIRECTORY_NAME if !in_root => Form::Own,
            _ if in_root && is_leftover() => Form::Leftover,
            _ => Form::Foreign,
        };
    }
    let is_sealed = BASE64URL_NOPAD.decode(name.as_bytes()).is_ok_and(|sealed| has_sealed_length(&sealed));
    if is_sealed { Form::Sealed } else { Form::Foreign }
}

/// Whether bytes can be a sealed name as far as their number goes.
fn has_sealed_length(sealed: &[u8]) -> bool {
    let padded = sealed.len().saturating_sub(TAG_LEN);
    padded > 0 && padded.is_multiple_of(PAD) && padded <= MAX_NAME_LEN.next_multiple_of(PAD)
}

/// Whether a sidecar's contents are those that its entry's name was made of. Needs no key.
fn sidecar_fits(long: &str, sidecar: &[u8]) -> bool {
    let hash = BASE64URL_NOPAD.encode(&sha256(&[sidecar]));
    has_sealed_length(sidecar) && long.strip_prefix(LONG_PREFIX) == Some(hash.as_str())
}

/// Whether a backing name, or its sidecar, opens under a directory's key.
pub(super) fn opens(scene: &Scene<'_>, key: &Key, dir: &DiskFile, name: &str) -> bool {
    match names::open(key, OsStr::new(name)) {
        Entry::Name(_) => true,
        Entry::Long => {
            let sidecar = read_sidecar(scene, dir, name);
            sidecar.is_ok_and(|sidecar| names::open_sidecar(key, OsStr::new(name), &sidecar).is_ok())
        }
        Entry::Reserved | Entry::Foreign => false,
    }
}

/// Checks the name of an entry of form `Sealed` or `Long`; answers it, if `key` opens it.
pub(super) fn check(
    scene: &Scene<'_>,
    dir: &DiskFile,
    place: &Place,
    stored: &str,
    key: Option<&Key>,
) -> Option<OsString> {
    let name = match (form(stored, false), key) {
        (Form::Long, key) => check_long(scene, dir, place, stored, key)?,
        (_, Some(key)) => match names::open(key, OsStr::new(stored)) {
            Entry::Name(name) => Some(name),
            _ => {
                scene.found(place, Finding::NameForged, Remedy::Quarantine);
                None
            }
        },
        (_, None) => None,
    };
    name.map(OsString::from_vec)
}

fn check_long(
    scene: &Scene<'_>,
    dir: &DiskFile,
    place: &Place,
    stored: &str,
    key: Option<&Key>,
) -> Option<Option<Vec<u8>>> {
    let sidecar = match read_sidecar(scene, dir, stored) {
        Ok(sidecar) => sidecar,
        Err(Errno::NOENT) => {
            scene.found(place, Finding::SidecarMissing, Remedy::Quarantine);
            return None;
        }
        Err(error) => {
            scene.not_readable(place, &error.into());
            return None;
        }
    };
    if !sidecar_fits(stored, &sidecar) {
        scene.found(place, Finding::SidecarForged, Remedy::Quarantine);
        return None;
    }
    let Some(key) = key else { return Some(None) };
    match names::open_sidecar(key, OsStr::new(stored), &sidecar) {
        Ok(name) => Some(Some(name)),
        Err(_) => {
            scene.found(place, Finding::NameForged, Remedy::Quarantine);
            None
        }
    }
}

/// Checks that the entry of a sidecar is there.
pub(super) fn check_sidecar(scene: &Scene<'_>, dir: &DiskFile, place: &Place, stored: &str) {
    let Some(entry) = stored.strip_suffix(SIDECAR_SUFFIX) else { return };
    if scene.disk.stat_at(dir, entry).err() == Some(Errno::NOENT) {
        scene.found(place, Finding::SidecarOrphaned, Remedy::Remove);
    }
}

/// Longer ones are cut: one byte too many is enough not to fit.
fn read_sidecar(scene: &Scene<'_>, dir: &DiskFile, stored: &str) -> rustix::io::Result<Vec<u8>> {
    let file = scene.open(dir, &names::sidecar_of(stored), OFlags::empty())?;
    let mut sidecar = vec![0; MAX_SIDECAR_LEN + 1];
    let read = file.read_at(&mut sidecar, 0);
    let len = read.map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    sidecar.truncate(len);
    Ok(sidecar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_sealed_has_its_form() {
        let key = Key::take_from(&mut [1; 32]);
        for len in 1..=MAX_NAME_LEN {
            let stored = names::seal(&key, &vec![b'n'; len]);
            let expected = if stored.sidecar.is_some() { Form::Long } else { Form::Sealed };
            assert_eq!(form(&stored.name, false), expected, "{len}");
            assert_eq!(form(&stored.name, true), expected, "{len}");
            if let Some(sidecar) = &stored.sidecar {
                assert_eq!(form(&stored.sidecar_name(), false), Form::Sidecar);
                assert!(sidecar_fits(&stored.name, sidecar));
                assert!(!sidecar_fits(&stored.name, &sidecar[1..]));
            }
        }
    }

    #[test]
    fn own_names_have_their_place() {
        assert_eq!(form("kmsfs.volume", true), Form::Own);
        assert_eq!(form("kmsfs.volume", false), Form::Foreign);
        assert_eq!(form("kmsfs.index", true), Form::Own);
        assert_eq!(form("kmsfs.index", false), Form::Foreign);
        assert_eq!(form("kmsfs.index.new", true), Form::Leftover);
        assert_eq!(form("kmsfs.dir", false), Form::Own);
        assert_eq!(form("kmsfs.dir", true), Form::Foreign);
        assert_eq!(form("kmsfs.volume.copy.new", true), Form::Leftover);
        assert_eq!(form("kmsfs.targets", true), Form::Targets);
        assert_eq!(form("kmsfs.targets", false), Form::Foreign);
        assert_eq!(form("kmsfs.lost+found", true), Form::Lost);
        for foreign in ["lost+found", ".stfolder", "abcd", "kmsfs.long.x", "kmsfs.long.x.name", "kmsfs.", "ü"]
        {
            assert_eq!(form(foreign, true), Form::Foreign, "{foreign}");
        }
    }
}
