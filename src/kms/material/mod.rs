//! Keys at work: every kind of key material, from bytes to signatures and back.
//!
//! Bytes in, bytes out. Nothing here knows a key's id, state or owner; the service asks those
//! first.
//!
//! | module | |
//! |---|---|
//! | `algorithm` | which algorithms there are, and which keys they are for |
//! | `parsed` | material ready for use, whatever its kind |
//! | `rsa`, `curve`, `edwards`, `lattice`, `mac` | one kind each |
//! | `message` | what is signed: a message, its digest, or its representative |
//! | `wrapping` | material on its way from elsewhere |
//! | `seed` | the service's own signatures |
//!
//! Private keys are stored and moved as PKCS#8, in the one form that `Parsed::canonical` gives
//! them, so that the same key always has the same bytes and with them the same fingerprint. Where
//! material is kept it is in locked memory; while a private key is in use its parsed form is in
//! the memory of AWS-LC, which overwrites it when it is dropped but does not lock it.

mod algorithm;
mod curve;
mod edwards;
mod lattice;
mod mac;
mod message;
mod parsed;
mod rsa;
pub(super) mod seed;
mod wrapping;

pub use algorithm::{EncryptionAlgorithm, MacAlgorithm, MessageType, SigningAlgorithm};
pub(super) use message::{MAX_MESSAGE, Signed};
pub(super) use parsed::{Parsed, generate};
pub use wrapping::{CannotWrap, WrappingAlgorithm, wrap_for_import};
pub(super) use wrapping::{WRAPPING_SPECS, WrappingKey};

use crate::kms::error::KmsError;

/// Bytes that are not material of the spec that they were meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not key material of this spec")]
pub(super) struct NotMaterial;

/// The cryptographic library failed where only a lack of memory or random numbers can make it.
fn failed(what: &str) -> KmsError {
    KmsError::new(
        crate::kms::error::ErrorKind::Internal,
        format!("the cryptographic library could not {what}"),
    )
}

#[cfg(test)]
mod tests;
