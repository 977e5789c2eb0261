//! The key service of this very process.

use std::sync::Arc;

use super::cache::master;
use super::{Provider, ProviderError, check_waiting};
use crate::kms::api::{
    AuthorizeOpenRequest, CreateKeyRequest, EncryptRequest, KeyRequest, NoteVolumeRequest, ReEncryptRequest,
    SecretBytes,
};
use crate::kms::{
    Caller, DataKey, EncryptionContext, KeyManager, KeyMetadata, KeyWatcher, OnBehalf, Service,
    UnwrappedDataKey,
};
use crate::secret::Key;

/// Calls a [`Service`] in process: no copies of plaintext, microseconds per call.
#[derive(Debug, Clone)]
pub struct Embedded {
    service: Arc<Service>,
    caller: Caller,
}

impl Embedded {
    /// Calls `service` as `caller`.
    pub fn new(service: Arc<Service>, caller: Caller) -> Self {
        Self { service, caller }
    }
}

impl Provider for Embedded {
    fn may_wait(&self, key: Option<&str>) -> bool {
        key.is_none_or(|key| self.service.asks_elsewhere(key))
    }

    fn generate_data_key(&self, key: &str, context: &EncryptionContext) -> Result<DataKey, ProviderError> {
        Ok(self.service.generate_data_key(&self.caller, key, context)?)
    }

    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError> {
        Ok(self.service.decrypt_data_key(&self.caller, blob, context)?)
    }

    fn rewrap(&self, blob: &[u8], context: &EncryptionContext, key: &str) -> Result<Vec<u8>, ProviderError> {
        check_waiting(|| self.may_wait(Some(key)) || self.may_wait(master(blob).as_deref()))?;
        let request = same_context(blob, context, key);
        Ok(self.service.re_encrypt(&self.caller, &request)?.ciphertext_blob)
    }

    fn wrap_data_key(
        &self,
        key: &str,
        data_key: &Key,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, ProviderError> {
        check_waiting(|| self.may_wait(Some(key)))?;
        Ok(self.service.encrypt(&self.caller, &encryption_of(key, data_key, context))?.ciphertext_blob)
    }

    fn describe_key(&self, key: &str) -> Result<KeyMetadata, ProviderError> {
        Ok(self.service.describe_key(&self.caller, &KeyRequest { key_id: key.to_owned() })?)
    }

    fn create_internal_key(&self, description: &str) -> Result<KeyMetadata, ProviderError> {
        let request = internal_key(description);
        Ok(self.service.create_key(&self.caller, &request)?)
    }

    fn note_volume(&self, note: &NoteVolumeRequest) -> Result<(), ProviderError> {
        Ok(self.service.note_volume(&self.caller, note).map(drop)?)
    }

    fn on_behalf(&self, whom: OnBehalf) -> Result<Arc<dyn Provider>, ProviderError> {
        let caller = self.service.on_behalf(&self.caller, &whom)?;
        Ok(Arc::new(Self { service: Arc::clone(&self.service), caller }))
    }

    fn authorize_open(
        &self,
        key: &str,
        version: u32,
        context: &EncryptionContext,
    ) -> Result<(), ProviderError> {
        self.service.authorize_open(&self.caller, &open_of(key, version, context))?;
        Ok(())
    }

    fn attach(&self, watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError> {
        Ok(Box::new(self.service.watch(watcher)))
    }
}

/// The request for a new wrapping that is bound to the context of the old one.
pub(super) fn same_context(blob: &[u8], context: &EncryptionContext, key: &str) -> ReEncryptRequest {
    ReEncryptRequest {
        ciphertext_blob: blob.to_vec(),
        source_encryption_context: context.clone(),
        destination_key_id: key.to_owned(),
        destination_encryption_context: context.clone(),
        ..ReEncryptRequest::default()
    }
}

/// The request to wrap a data key that the caller has.
pub(super) fn encryption_of(key: &str, data_key: &Key, context: &EncryptionContext) -> EncryptRequest {
    EncryptRequest {
        key_id: key.to_owned(),
        plaintext: SecretBytes::new(data_key.expose().to_vec()),
        encryption_context: context.clone(),
        ..EncryptRequest::default()
    }
}

/// The question whether a file may be opened.
pub(super) fn open_of(key: &str, version: u32, context: &EncryptionContext) -> AuthorizeOpenRequest {
    AuthorizeOpenRequest {
        key_id: key.to_owned(),
        encryption_context: context.clone(),
        key_material_version: version,
    }
}

/// The request for a volume's own key.
pub(super) fn internal_key(description: &str) -> CreateKeyRequest {
    CreateKeyRequest {
        description: description.to_owned(),
        manager: KeyManager::Internal,
        ..CreateKeyRequest::default()
    }
}
