//! A key service of one master key, which can be interrupted wherever a real one can.

use std::sync::Arc;
use std::time::Duration;

use kmsfs::kms::{DataKey, EncryptionContext, KeyId, KeyMetadata, KeyWatcher, UnwrappedDataKey};
use kmsfs::provider::{Provider, ProviderError};
use kmsfs::secret::{KEY_LEN, Key};
use kmsfs::sync::Instant;
use kmsfs::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::explore::pause;

const ID: [u8; 16] = [7; 16];

/// Wraps a key as itself: whoever knows the blob could read it, but for the master key's state.
pub(crate) struct Master {
    revoked: AtomicBool,
    /// Calls for data keys.
    pub(crate) calls: AtomicU32,
    /// When this was made; times of unwrapping count from here.
    begin: Instant,
    /// Data keys say when they were unwrapped instead of what they are.
    stamps: bool,
}

impl Master {
    pub(crate) fn new() -> Self {
        Self {
            revoked: AtomicBool::new(false),
            calls: AtomicU32::new(0),
            begin: Instant::now(),
            stamps: false,
        }
    }

    /// One whose data keys are all different and say when they were unwrapped; see [`stamp`].
    pub(crate) fn stamping() -> Self {
        Self { stamps: true, ..Self::new() }
    }

    pub(crate) fn id() -> KeyId {
        KeyId::from_bytes(ID)
    }

    pub(crate) fn arn() -> String {
        format!("arn:aws:kms:local:000000000000:key/{}", Self::id())
    }

    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
    }

    pub(crate) fn restore(&self) {
        self.revoked.store(false, Ordering::SeqCst);
    }

    /// Time since it was made.
    pub(crate) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The question travels, is answered at one moment, and the answer travels.
    fn answer(&self, key: [u8; KEY_LEN]) -> Result<Key, ProviderError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.revoked.load(Ordering::SeqCst) {
            return Err(ProviderError::Disabled("revoked".to_owned()));
        }
        let mut key = key;
        if self.stamps {
            key[..4].copy_from_slice(&call.to_le_bytes());
            key[8..16].copy_from_slice(&(self.now().as_nanos() as u64).to_le_bytes());
        }
        pause();
        Ok(Key::take_from(&mut key))
    }
}

/// When a key of [`Master::stamping`] was unwrapped.
pub(crate) fn stamp(key: &Key) -> Duration {
    Duration::from_nanos(u64::from_le_bytes(key.expose()[8..16].try_into().unwrap()))
}

impl Provider for Master {
    fn generate_data_key(&self, _key: &str, _context: &EncryptionContext) -> Result<DataKey, ProviderError> {
        let mut key = [0; KEY_LEN];
        getrandom::fill(&mut key).unwrap();
        Ok(DataKey { plaintext: self.answer(key)?, blob: key.to_vec(), key_arn: Self::arn(), key_version: 1 })
    }

    fn unwrap(&self, blob: &[u8], _context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError> {
        let plaintext = self.answer(blob.try_into().unwrap())?;
        Ok(UnwrappedDataKey { plaintext, key_arn: Self::arn(), key_version: 1 })
    }

    fn rewrap(&self, blob: &[u8], _: &EncryptionContext, _key: &str) -> Result<Vec<u8>, ProviderError> {
        Ok(blob.to_vec())
    }

    fn describe_key(&self, _key: &str) -> Result<KeyMetadata, ProviderError> {
        Ok(serde_json::from_value(serde_json::json!({
            "KeyId": Self::id(), "Arn": Self::arn(), "AWSAccountId": "000000000000", "CreationDate": 0,
            "Enabled": true, "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled",
            "KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "Origin": "AWS_KMS", "KeyManager": "CUSTOMER",
        }))
        .unwrap())
    }

    fn create_internal_key(&self, _description: &str) -> Result<KeyMetadata, ProviderError> {
        self.describe_key("")
    }

    fn attach(&self, _watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError> {
        Ok(Box::new(()))
    }
}
