//! No cipher at all: contents are copied, and their tags are zero. Present only in builds with the
//! feature `copy-cipher`.
//!
//! It shows what the way from a program to the backing file takes without encryption, the ceiling
//! of what a cipher can be measured against. Three things keep what was written with it from being
//! taken for encrypted data:
//!
//! * A cipher finds its tags wrong, so every other build, and this one without the variable, reads
//!   such contents as forged.
//! * It opens nothing that has another tag than zero, so ciphertext is not shown as contents.
//! * It is for contents alone. Data keys, headers, maps and names are sealed by a real cipher.

use zeroize::Zeroize;

use super::aead::{Aead, Open, OpenError, Seal, TAG_LEN};
use crate::secret::Key;

/// Copies, and encrypts nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copying;

impl Copying {
    /// What chooses it.
    pub(super) const NAME: &str = "copy";
}

impl Aead for Copying {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn seal(&self, _: &Key, batch: &mut [Seal<'_>]) {
        for message in batch {
            message.ciphertext.copy_from_slice(message.plaintext);
            *message.tag = [0; TAG_LEN];
        }
    }

    fn open(&self, _: &Key, batch: &mut [Open<'_>]) -> Result<(), OpenError> {
        if batch.iter().any(|message| *message.tag != [0; TAG_LEN]) {
            for message in batch {
                message.plaintext.zeroize();
            }
            return Err(OpenError);
        }
        for message in batch {
            message.plaintext.copy_from_slice(message.ciphertext);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::NONCE_LEN;
    use crate::crypto::aead;
    use crate::secret::KEY_LEN;

    const TEXT: [u8; 100] = [0x17; 100];
    const NONCE: [u8; NONCE_LEN] = [9; NONCE_LEN];

    fn seal(aead: &dyn Aead) -> ([u8; 100], [u8; TAG_LEN]) {
        let (mut ciphertext, mut tag) = ([0; 100], [1; TAG_LEN]);
        let message =
            Seal { nonce: &NONCE, aad: b"aad", plaintext: &TEXT, ciphertext: &mut ciphertext, tag: &mut tag };
        aead.seal(&key(), &mut [message]);
        (ciphertext, tag)
    }

    fn open(aead: &dyn Aead, (ciphertext, tag): &([u8; 100], [u8; TAG_LEN])) -> Result<[u8; 100], OpenError> {
        let mut plaintext = [0xee; 100];
        let message = Open { nonce: &NONCE, aad: b"aad", ciphertext, plaintext: &mut plaintext, tag };
        let opened = aead.open(&key(), &mut [message]);
        if opened.is_err() {
            assert_eq!(plaintext, [0; 100], "what was not opened is zeroed");
        }
        opened.map(|()| plaintext)
    }

    fn key() -> Key {
        Key::take_from(&mut [0x42; KEY_LEN])
    }

    #[test]
    fn it_copies_and_leaves_the_tag_zero() {
        let sealed = seal(&Copying);
        assert_eq!(sealed, (TEXT, [0; TAG_LEN]));
        assert_eq!(open(&Copying, &sealed), Ok(TEXT));
    }

    #[test]
    fn no_cipher_opens_what_was_copied_and_what_a_cipher_sealed_is_not_copied() {
        for cipher in aead::all() {
            assert_ne!(cipher.name(), Copying::NAME, "it is among the ciphers");
            assert_eq!(open(*cipher, &seal(&Copying)), Err(OpenError), "{}", cipher.name());
            assert_eq!(open(&Copying, &seal(*cipher)), Err(OpenError), "{}", cipher.name());
        }
    }

    #[test]
    fn one_message_with_a_tag_closes_the_batch() {
        let (copied, sealed) = (seal(&Copying), seal(aead::best()));
        let (mut first, mut second) = ([0xee; 100], [0xee; 100]);
        let mut batch = [
            Open { nonce: &NONCE, aad: b"", ciphertext: &copied.0, plaintext: &mut first, tag: &copied.1 },
            Open { nonce: &NONCE, aad: b"", ciphertext: &sealed.0, plaintext: &mut second, tag: &sealed.1 },
        ];
        assert_eq!(Copying.open(&key(), &mut batch), Err(OpenError));
        assert_eq!((first, second), ([0; 100], [0; 100]));
    }
}
