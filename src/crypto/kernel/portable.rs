//! The `aes-gcm-siv` crate: the reference, and what runs where no kernel does.

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Key as RawKey};
use zeroize::Zeroize;

use crate::crypto::aead::{Aead, Open, OpenError, Seal};
use crate::secret::Key;

/// The `aes-gcm-siv` crate: the reference that every other implementation is tested against.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

impl Aead for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn seal(&self, key: &Key, batch: &mut [Seal<'_>]) {
        let cipher = expand(key);
        for message in batch {
            let buffer = in_out(message.plaintext, message.ciphertext);
            let sealed = cipher.encrypt_inout_detached(message.nonce.into(), message.aad, buffer);
            match sealed {
                Ok(tag) => *message.tag = tag.into(),
                Err(_) => unreachable!("in_out bounds the length"),
            }
        }
    }

    fn open(&self, key: &Key, batch: &mut [Open<'_>]) -> Result<(), OpenError> {
        let cipher = expand(key);
        let mut authentic = true;
        for message in &mut *batch {
            let buffer = in_out(message.ciphertext, message.plaintext);
            authentic &= cipher
                .decrypt_inout_detached(message.nonce.into(), message.aad, buffer, message.tag.into())
                .is_ok();
        }
        if authentic {
            return Ok(());
        }
        for message in batch {
            message.plaintext.zeroize();
        }
        Err(OpenError)
    }
}

fn expand(key: &Key) -> Aes256GcmSiv {
    Aes256GcmSiv::new(<&RawKey<Aes256GcmSiv>>::from(key.expose()))
}

fn in_out<'a>(input: &'a [u8], output: &'a mut [u8]) -> InOutBuf<'a, 'a, u8> {
    assert!(input.len() as u64 <= aes_gcm_siv::P_MAX, "message exceeds RFC 8452's limit");
    match InOutBuf::new(input, output) {
        Ok(buffer) => buffer,
        Err(_) => unreachable!("both buffers of a message have one length"),
    }
}
