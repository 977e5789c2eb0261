//! Wrapping one key under another: AES-256-GCM-SIV with a random nonce.

use super::aead::{self, NONCE_LEN, OpenError, TAG_LEN};
use crate::codec::{Reader, Truncated};
use crate::secret::{KEY_LEN, Key};

/// Bytes in a wrapped key: nonce, ciphertext, tag.
pub const WRAPPED_LEN: usize = NONCE_LEN + KEY_LEN + TAG_LEN;

/// Wraps `key` under `kek`, bound to `aad`.
///
/// # Errors
/// When the operating system's random number generator fails.
pub fn wrap(kek: &Key, aad: &[u8], key: &Key) -> Result<[u8; WRAPPED_LEN], getrandom::Error> {
    let mut out = [0; WRAPPED_LEN];
    seal_into(kek, aad, key.expose(), &mut out)?;
    Ok(out)
}

/// Unwraps a key straight into locked memory.
///
/// # Errors
/// [`OpenError`] when the bytes were not made by [`wrap`] with this `kek` and `aad`.
pub fn unwrap(kek: &Key, aad: &[u8], wrapped: &[u8; WRAPPED_LEN]) -> Result<Key, OpenError> {
    Key::fill(|bytes| open_into(kek, aad, wrapped, bytes))
}

/// Seals `plaintext` into `out` as nonce, ciphertext, tag. `out` must be
/// `NONCE_LEN + plaintext.len() + TAG_LEN` bytes long.
///
/// # Errors
/// When the operating system's random number generator fails.
///
/// # Panics
/// When `out` has another length.
pub fn seal_into(key: &Key, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), getrandom::Error> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    seal_with(key, &nonce, aad, plaintext, out);
    Ok(())
}

/// As [`seal_into`], with the caller's nonce.
///
/// # Panics
/// When `out` is not `NONCE_LEN + plaintext.len() + TAG_LEN` bytes long.
pub fn seal_with(key: &Key, nonce: &aead::Nonce, aad: &[u8], plaintext: &[u8], out: &mut [u8]) {
    let (head, rest) = out.split_at_mut(NONCE_LEN);
    let (ciphertext, tag) = rest.split_at_mut(plaintext.len());
    head.copy_from_slice(nonce);
    tag.copy_from_slice(&aead::seal_one(key, nonce, aad, plaintext, ciphertext));
}

/// Opens what [`seal_into`] made into `plaintext`, whose length must be that of the message.
///
/// # Errors
/// [`OpenError`] when it is not authentic or has another length; `plaintext` is zeroed or
/// untouched then.
pub fn open_into(key: &Key, aad: &[u8], sealed: &[u8], plaintext: &mut [u8]) -> Result<(), OpenError> {
    let (nonce, ciphertext, tag) = split(sealed, plaintext.len()).map_err(|Truncated| OpenError)?;
    aead::open_one(key, &nonce, aad, ciphertext, plaintext, &tag)
}

fn split(sealed: &[u8], len: usize) -> Result<(aead::Nonce, &[u8], aead::Tag), Truncated> {
    let mut r = Reader::new(sealed);
    let parts = (r.array()?, r.bytes(len)?, r.array()?);
    if r.rest().is_empty() { Ok(parts) } else { Err(Truncated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwraps_only_with_the_same_key_and_context() {
        let kek = Key::random().unwrap();
        let key = Key::random().unwrap();
        let wrapped = wrap(&kek, b"context", &key).unwrap();
        assert_eq!(unwrap(&kek, b"context", &wrapped).unwrap(), key);
        assert!(unwrap(&kek, b"contexT", &wrapped).is_err());
        assert!(unwrap(&key, b"context", &wrapped).is_err());
        for byte in 0..wrapped.len() {
            let mut forged = wrapped;
            forged[byte] ^= 1;
            assert!(unwrap(&kek, b"context", &forged).is_err(), "byte {byte}");
        }
    }
}
