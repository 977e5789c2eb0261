//! Who makes and unwraps data keys: the service of this process, or one behind a socket.

pub mod cache;
mod client;
mod embedded;
mod error;
mod waiting;

use std::sync::Arc;

use crate::kms::api::NoteVolumeRequest;
use crate::kms::{DataKey, EncryptionContext, KeyMetadata, KeyWatcher, OnBehalf, UnwrappedDataKey};
use crate::secret::Key;

pub use cache::{CacheSettings, CachedDataKey, KeyCache};
pub use client::{CALL_TIMEOUT, SocketClient};
pub use embedded::Embedded;
pub use error::{Failure, ProviderError};
pub use waiting::{check as check_waiting, without_waiting};

/// A source of data keys. May be used from any thread; no call hangs: one that cannot be answered
/// in time fails with [`ProviderError::Unavailable`].
pub trait Provider: Send + Sync {
    /// Whether a use of `key` (id or ARN; `None` where that is not known) may take longer than a lock is
    /// held, as somebody elsewhere is asked.
    fn may_wait(&self, _key: Option<&str>) -> bool {
        false
    }

    /// A fresh data key under `key` (id, ARN or alias), bound to `context`.
    ///
    /// # Errors
    /// Any [`ProviderError`] but `InvalidCiphertext`.
    fn generate_data_key(&self, key: &str, context: &EncryptionContext) -> Result<DataKey, ProviderError>;

    /// Unwraps what [`Provider::generate_data_key`] wrapped.
    ///
    /// # Errors
    /// Any [`ProviderError`].
    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError>;

    /// Wraps what is in `blob` anew, by the newest version of `key` (id, ARN or alias) and bound to the
    /// same context. The plaintext stays with the provider.
    ///
    /// # Errors
    /// Any [`ProviderError`], for either key.
    fn rewrap(&self, blob: &[u8], context: &EncryptionContext, key: &str) -> Result<Vec<u8>, ProviderError>;

    /// Wraps a data key that was not made here, by the newest version of `key` (id, ARN or alias) and
    /// bound to `context`.
    ///
    /// # Errors
    /// Any [`ProviderError`] but `InvalidCiphertext`; `Other` from a key service that cannot.
    fn wrap_data_key(
        &self,
        key: &str,
        _data_key: &Key,
        _context: &EncryptionContext,
    ) -> Result<Vec<u8>, ProviderError> {
        let message = format!("the key service wraps nothing by {key} that it did not make");
        Err(ProviderError::Other(message.into()))
    }

    /// What is known about `key` (id, ARN or alias).
    ///
    /// # Errors
    /// Any [`ProviderError`] but those of key states and `InvalidCiphertext`.
    fn describe_key(&self, key: &str) -> Result<KeyMetadata, ProviderError>;

    /// Creates a key for a volume's own bookkeeping: not listed, cannot be disabled or deleted.
    ///
    /// # Errors
    /// `AccessDenied`, `Unavailable` or `Other`.
    fn create_internal_key(&self, description: &str) -> Result<KeyMetadata, ProviderError>;

    /// Notes that this process has a volume open for writing, or has let go of it. A provider need not
    /// remember.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Unavailable` or `Other`.
    fn note_volume(&self, _note: &NoteVolumeRequest) -> Result<(), ProviderError> {
        Ok(())
    }

    /// The same, as it answers a user who wants something of a file: what is asked of it is decided
    /// and logged as his.
    ///
    /// # Errors
    /// `AccessDenied` where this process may not speak for him; `Other` from a key service that
    /// knows no users.
    fn on_behalf(&self, whom: OnBehalf) -> Result<Arc<dyn Provider>, ProviderError> {
        let message = format!("the key service does not decide for user {}", whom.uid);
        Err(ProviderError::Other(message.into()))
    }

    /// Whether a file's data key, which `key` (id or ARN) wrapped with this version of its material
    /// for `context`, may be unwrapped now. To be asked by whoever has the data key already, and
    /// never answered from memory: what was withdrawn counts at the next open.
    ///
    /// # Errors
    /// Any [`ProviderError`] but `InvalidCiphertext`; `Other` from a key service that cannot tell.
    fn authorize_open(
        &self,
        key: &str,
        version: u32,
        context: &EncryptionContext,
    ) -> Result<(), ProviderError> {
        let message =
            format!("the key service cannot tell who may use {key} (version {version}, {context:?})");
        Err(ProviderError::Other(message.into()))
    }

    /// Has `watcher` told of every revocation, until the answer is dropped. See [`KeyWatcher`].
    ///
    /// # Errors
    /// `AccessDenied`, `Unavailable` or `Other`.
    fn attach(&self, watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError>;
}
