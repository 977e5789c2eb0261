//! Sealed extended attributes.

use std::os::fd::AsFd;

use data_encoding::BASE64URL_NOPAD;

use super::finding::Finding;
use super::report::Place;
use super::scene::Scene;
use crate::codec::Reader;
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::format::{Id, SEALED_XATTR_PREFIX};
use crate::fs::open_attribute;
use crate::secret::Key;

/// Bytes of the keyed hash in a backing attribute's name.
const HASH_LEN: usize = 16;

/// Checks the attributes of a file or directory: whether they open under one of its keys or, without one,
/// whether they are well formed.
pub(super) fn check(scene: &Scene<'_>, place: &Place, file: impl AsFd, opener: Option<(&[&Key], Id)>) {
    let names = match scene.disk.list_xattrs(&file) {
        Ok(names) => names,
        Err(error) => return scene.not_readable(place, &error.into()),
    };
    for name in names.split(|&b| b == 0).filter(|name| name.starts_with(SEALED_XATTR_PREFIX.as_bytes())) {
        let good = match (scene.disk.get_xattr(&file, name), opener, scene.keyed) {
            (Ok(value), Some((keys, id)), Some(keyed)) => {
                open_attribute(keyed.volume, name, &value, keys, id).is_ok()
            }
            (Ok(value), ..) => is_well_formed(name, &value),
            (Err(error), ..) => {
                scene.not_readable(place, &error.into());
                continue;
            }
        };
        if !good {
            let name = String::from_utf8_lossy(name).into_owned();
            scene.found(place, Finding::AttributeForged(name), None);
        }
    }
}

fn is_well_formed(name: &[u8], value: &[u8]) -> bool {
    let hash = BASE64URL_NOPAD.decode(&name[SEALED_XATTR_PREFIX.len()..]);
    let mut r = Reader::new(value);
    let sealed_name = r.string16().map_or(0, <[u8]>::len);
    hash.is_ok_and(|hash| hash.len() == HASH_LEN)
        && sealed_name > NONCE_LEN + TAG_LEN
        && r.rest().len() >= NONCE_LEN + TAG_LEN
}
