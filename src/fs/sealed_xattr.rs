//! How a user attribute lies in its backing attribute: under a keyed hash of its name, the sealed
//! name (under the volume's key, so that names can be listed without the file's key) and the
//! sealed value.

use std::os::fd::AsFd;

use data_encoding::BASE64URL_NOPAD;

use super::volume::Volume;
use super::{FsError, FsResult};
use crate::codec::Reader;
use crate::crypto::kdf::Kdf;
use crate::crypto::wrap::{open_into, seal_into};
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::format::{Id, SEALED_XATTR_PREFIX};
use crate::secret::Key;

const SEAL_OVERHEAD: usize = NONCE_LEN + TAG_LEN;
const LABEL: &[u8] = b"kmsfs v1 xattr";

/// Whether a backing attribute holds a sealed one.
pub(super) fn is_sealed(stored: &[u8]) -> bool {
    stored.starts_with(SEALED_XATTR_PREFIX.as_bytes())
}

/// The backing attribute of a user attribute.
pub(super) fn backing_name(volume: &Volume, name: &[u8]) -> Vec<u8> {
    let hash = Kdf::new(&volume.keys.xattr_names, b"").commitment(&[b"name", name]);
    format!("{SEALED_XATTR_PREFIX}{}", BASE64URL_NOPAD.encode(&hash[..16])).into_bytes()
}

/// Seals an attribute of the file or directory `object` under its key for values.
pub(super) fn seal(volume: &Volume, key: &Key, object: Id, name: &[u8], value: &[u8]) -> FsResult<Vec<u8>> {
    let name_len = name.len() + SEAL_OVERHEAD;
    let mut out = vec![0; 2 + name_len + value.len() + SEAL_OVERHEAD];
    let (len, rest) = out.split_at_mut(2);
    let (sealed_name, sealed_value) = rest.split_at_mut(name_len);
    len.copy_from_slice(&(name_len as u16).to_le_bytes());
    seal_into(&volume.keys.xattr_names, LABEL, name, sealed_name)?;
    seal_into(key, &value_aad(object, name), value, sealed_value)?;
    Ok(out)
}

/// The name in a backing attribute `stored`; `None` if it is damaged or another attribute's.
pub(super) fn open_name(volume: &Volume, stored: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let sealed = Reader::new(value).string16().ok()?;
    let mut name = vec![0; sealed.len().checked_sub(SEAL_OVERHEAD)?];
    open_into(&volume.keys.xattr_names, LABEL, sealed, &mut name).ok()?;
    (backing_name(volume, &name) == stored).then_some(name)
}

/// The value in a backing attribute, sealed under one of `keys`.
///
/// # Errors
/// `EIO` if it is damaged, or another attribute's, file's or directory's.
pub(super) fn open_value(keys: &[&Key], object: Id, name: &[u8], stored: &[u8]) -> FsResult<Vec<u8>> {
    let damaged = || FsError::damaged("a damaged extended attribute");
    let mut r = Reader::new(stored);
    r.string16().map_err(|_| damaged())?;
    let len = r.rest().len().checked_sub(SEAL_OVERHEAD).ok_or_else(damaged)?;
    let mut value = vec![0; len];
    let aad = value_aad(object, name);
    let opened = keys.iter().any(|key| open_into(key, &aad, r.rest(), &mut value).is_ok());
    if opened { Ok(value) } else { Err(damaged()) }
}

/// Opens the contents `value` of the backing attribute `stored`, its value under one of `keys` for the file or
/// directory `object`. Answers its name.
///
/// # Errors
/// `EIO`, if the name or the value does not open, or belongs to another attribute.
pub fn open_attribute(
    volume: &Volume,
    stored: &[u8],
    value: &[u8],
    keys: &[&Key],
    object: Id,
) -> FsResult<Vec<u8>> {
    let name = open_name(volume, stored, value);
    let name = name.ok_or_else(|| FsError::damaged("a damaged extended attribute"))?;
    open_value(keys, object, &name, value)?;
    Ok(name)
}

/// Whether a directory has an attribute that was sealed for it when its id was `id`.
pub(super) fn proves(volume: &Volume, dir: impl AsFd, id: Id) -> bool {
    let proves = |stored: &[u8]| {
        let value = volume.disk.get_xattr(&dir, stored).ok()?;
        let name = open_name(volume, stored, &value)?;
        open_value(&[&volume.keys.directory_xattr], id, &name, &value).ok()
    };
    let names = volume.disk.list_xattrs(&dir).unwrap_or_default();
    names.split(|&b| b == 0).filter(|name| is_sealed(name)).any(|name| proves(name).is_some())
}

/// Binds a value to its name and to the file or directory.
fn value_aad(object: Id, name: &[u8]) -> Vec<u8> {
    [LABEL, b" value ", &object.0, name].concat()
}
