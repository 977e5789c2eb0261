//! Bytes in, bytes out: the AEAD, key derivation and key wrapping. Nothing here knows what a
//! file or a master key is.

pub mod aead;
#[cfg(feature = "copy-cipher")]
mod copying;
pub mod kdf;
mod kernel;
pub mod nonce;
pub mod wrap;

pub use aead::{NONCE_LEN, Nonce, OpenError, TAG_LEN, Tag};
