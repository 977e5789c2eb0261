//! Why there is no data key.

use thiserror::Error;

use crate::kms::{ErrorKind, KeyState, KmsError, Reason};

/// A refused or failed call to a provider: what a file system needs to tell apart, with the
/// provider's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProviderError {
    /// The master key is disabled.
    #[error("{0}")]
    Disabled(String),
    /// The master key is to be deleted.
    #[error("{0}")]
    PendingDeletion(String),
    /// The master key's material has not been imported yet, or has expired.
    #[error("{0}")]
    PendingImport(String),
    /// There is no such master key in this key store: deleted, or of another store.
    #[error("{0}")]
    NotFound(String),
    /// The caller may not use the master key.
    #[error("{0}")]
    AccessDenied(String),
    /// The key service is locked or away. Worth another try later.
    #[error("{0}")]
    Unavailable(String),
    /// Somebody elsewhere has to be asked, by a thread that must not wait. Nothing was done.
    #[error("the key service would have to be waited for")]
    WouldWait,
    /// The wrapped key or its context is not authentic.
    #[error("{0}")]
    InvalidCiphertext(String),
    /// Anything else, such as a key store that cannot be written.
    #[error("{0}")]
    Other(Failure),
}

/// A failure that a file system need not tell from others.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    reason: Option<Reason>,
}

impl Failure {
    /// What lies behind it, if the key store itself failed.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { message, reason: None }
    }
}

impl From<KmsError> for ProviderError {
    fn from(error: KmsError) -> Self {
        if let Some(reason) = error.reason() {
            if reason == Reason::Locked {
                return Self::Unavailable(error.message().to_owned());
            }
            return Self::Other(Failure { message: error.message().to_owned(), reason: Some(reason) });
        }
        let message = format!("{error}; {}", error.hint());
        match (error.kind(), error.key_state()) {
            (ErrorKind::Disabled, _) => Self::Disabled(message),
            (ErrorKind::InvalidState, Some(KeyState::PendingDeletion)) => Self::PendingDeletion(message),
            (ErrorKind::InvalidState, Some(KeyState::PendingImport)) => Self::PendingImport(message),
            (ErrorKind::InvalidState, Some(KeyState::Unavailable)) => Self::Unavailable(message),
            (ErrorKind::NotFound | ErrorKind::IncorrectKey, _) => Self::NotFound(message),
            (ErrorKind::AccessDenied, _) => Self::AccessDenied(message),
            (ErrorKind::DependencyTimeout | ErrorKind::KeyUnavailable, _) => Self::Unavailable(message),
            (ErrorKind::InvalidCiphertext, _) => Self::InvalidCiphertext(message),
            _ => Self::Other(message.into()),
        }
    }
}
