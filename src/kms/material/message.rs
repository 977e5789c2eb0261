//! What is signed: a message, its digest, or ML-DSA's representative of it.

use super::algorithm::{MessageType, SigningAlgorithm};
use crate::kms::error::KmsError;

/// Longest message that the service hashes itself.
pub(in crate::kms) const MAX_MESSAGE: usize = 4096;

/// What a signature is made of, of a length that its algorithm takes.
#[derive(Clone, Copy)]
pub(in crate::kms) enum Signed<'a> {
    Message(&'a [u8]),
    /// As long as the algorithm's digest.
    Digest(&'a [u8]),
    Representative(&'a [u8; 64]),
}

impl<'a> Signed<'a> {
    /// # Errors
    /// Validation for a message type that `algorithm` does not sign, or a wrong length.
    pub(in crate::kms) fn new(
        algorithm: SigningAlgorithm,
        kind: MessageType,
        bytes: &'a [u8],
    ) -> Result<Self, KmsError> {
        if !(1..=MAX_MESSAGE).contains(&bytes.len()) {
            return Err(KmsError::validation("Message must be 1 to 4096 bytes long"));
        }
        if !algorithm.message_types().contains(&kind) {
            return Err(KmsError::validation(format!(
                "MessageType {kind} is not compatible with {algorithm}"
            )));
        }
        match kind {
            MessageType::Raw => Ok(Self::Message(bytes)),
            MessageType::Digest if bytes.len() == algorithm.digest_len() => Ok(Self::Digest(bytes)),
            MessageType::Digest => {
                Err(KmsError::validation(format!("Digest is invalid length for algorithm {algorithm}.")))
            }
            MessageType::ExternalMu => bytes
                .try_into()
                .map(Self::Representative)
                .map_err(|_| KmsError::validation("An external mu is 64 bytes long")),
        }
    }
}
