//! Errors with the errno that a program sees.

use std::fmt;
use std::io;

use crate::chunk::ChunkError;
use crate::format::FormatError;
use crate::kms::KeyState;
use crate::provider::ProviderError;

/// What a filesystem operation failed with.
#[derive(Debug)]
pub struct FsError {
    errno: i32,
    reason: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result of a filesystem operation.
pub type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// An error that needs no words beyond its errno.
    pub fn new(errno: i32) -> Self {
        Self { errno, reason: None }
    }

    /// Damaged or forged data: `EIO`.
    pub fn damaged(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { errno: libc::EIO, reason: Some(reason.into()) }
    }

    /// Whether nothing was done because the thread must not wait for the key service.
    pub fn would_wait(&self) -> bool {
        let reason = self.reason.as_ref().and_then(|reason| reason.downcast_ref());
        matches!(reason, Some(ProviderError::WouldWait))
    }

    /// The errno, positive.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// Whether a key is not usable at the moment.
    pub fn is_refusal(&self) -> bool {
        [libc::EKEYREVOKED, libc::EKEYEXPIRED, libc::EKEYREJECTED, libc::ENOKEY].contains(&self.errno)
    }

    /// Whether it belongs in the log: damage, which an administrator has to know about.
    pub fn is_damage(&self) -> bool {
        self.errno == libc::EIO
    }
}

/// What a program sees of a key that is not usable.
pub(super) fn errno_of_state(state: Option<KeyState>) -> i32 {
    match state {
        Some(KeyState::Enabled) => 0,
        Some(KeyState::Disabled | KeyState::PendingDeletion) => libc::EKEYREVOKED,
        Some(KeyState::PendingImport) => libc::EKEYEXPIRED,
        Some(KeyState::Unavailable) => libc::ENOKEY,
        None => libc::EKEYREJECTED,
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => reason.fmt(f),
            None => io::Error::from_raw_os_error(self.errno).fmt(f),
        }
    }
}

impl std::error::Error for FsError {}

impl From<rustix::io::Errno> for FsError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::new(errno.raw_os_error())
    }
}

impl From<io::Error> for FsError {
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Self { errno, reason: Some(error.into()) }
    }
}

impl From<getrandom::Error> for FsError {
    fn from(error: getrandom::Error) -> Self {
        Self { errno: libc::EAGAIN, reason: Some(Box::new(error)) }
    }
}

impl From<FormatError> for FsError {
    fn from(error: FormatError) -> Self {
        Self::damaged(error)
    }
}

impl From<ChunkError> for FsError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Io(error) => error.into(),
            ChunkError::NoRandomness(error) => error.into(),
            ChunkError::TooBig => Self::new(libc::EFBIG),
            damage => Self::damaged(damage),
        }
    }
}

impl From<ProviderError> for FsError {
    fn from(error: ProviderError) -> Self {
        let errno = match &error {
            ProviderError::Disabled(_) | ProviderError::PendingDeletion(_) => libc::EKEYREVOKED,
            ProviderError::PendingImport(_) => libc::EKEYEXPIRED,
            ProviderError::NotFound(_) => libc::EKEYREJECTED,
            ProviderError::AccessDenied(_) => libc::EACCES,
            ProviderError::Unavailable(_) | ProviderError::WouldWait => libc::ENOKEY,
            ProviderError::InvalidCiphertext(_) | ProviderError::Other(_) => libc::EIO,
        };
        Self { errno, reason: Some(Box::new(error)) }
    }
}
