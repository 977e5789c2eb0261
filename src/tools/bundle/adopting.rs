//! A key service that also opens what another one wrapped, as far as a bundle has the keys.
//!
//! Through it a volume of the other key store opens, and re-wrapping brings its files under keys of
//! this one. Which is which, the wrapped key says: it names its master key, which this key store
//! knows or not.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Bundle, Kind};
use crate::format::Id;
use crate::fs::file_context;
use crate::kms::api::NoteVolumeRequest;
use crate::kms::{Blob, DataKey, EncryptionContext, KeyMetadata, KeyWatcher, UnwrappedDataKey};
use crate::provider::{Provider, ProviderError};
use crate::secret::Key;
use crate::sync::Mutex;

/// A provider of data keys for a volume that is being imported.
pub struct Adopting {
    local: Arc<dyn Provider>,
    bundle: Bundle,
    /// Whether a master key, by its id, is one of another key store.
    foreign: Mutex<HashMap<String, bool>>,
}

impl Adopting {
    /// What `local` opens and, beside that, `bundle`.
    pub fn new(local: Arc<dyn Provider>, bundle: Bundle) -> Self {
        Self { local, bundle, foreign: Mutex::default() }
    }

    /// The keys of the other key store.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Whether a master key, by its ARN or id, is one of another key store.
    ///
    /// # Errors
    /// When the key service does not say.
    pub fn is_foreign(&self, key: &str) -> Result<bool, ProviderError> {
        let id = key.rsplit('/').next().unwrap_or(key);
        if let Some(&known) = self.foreign.lock().get(id) {
            return Ok(known);
        }
        let foreign = match self.local.describe_key(id) {
            Ok(_) => false,
            Err(ProviderError::NotFound(_)) => true,
            Err(error) => return Err(error),
        };
        self.foreign.lock().insert(id.to_owned(), foreign);
        Ok(foreign)
    }

    /// The data key in a blob of another key store; `None` for one of this key store.
    fn adopted(&self, blob: &[u8], context: &EncryptionContext) -> Result<Option<Key>, ProviderError> {
        match Blob::parse(blob) {
            Ok(blob) if self.is_foreign(&blob.head.key.to_string())? => {}
            _ => return Ok(None),
        }
        let missing = || ProviderError::NotFound("the bundle does not have this data key".to_owned());
        let (kind, id) = self.object(context).ok_or_else(missing)?;
        let key = self.bundle.data_key(kind, id);
        key.map_err(|error| ProviderError::Other(error.to_string().into()))?.ok_or_else(missing).map(Some)
    }

    /// What an encryption context is of, if that is of the bundle's volume.
    fn object(&self, context: &EncryptionContext) -> Option<(Kind, Id)> {
        let volume = self.bundle.volume();
        match context.value("kmsfs:file") {
            Some(file) => {
                let id = Id(uuid::Uuid::try_parse(file).ok()?.into_bytes());
                (*context == file_context(volume, id)).then_some((Kind::File, id))
            }
            None => (context.value("kmsfs:volume")? == volume.to_string()).then_some((Kind::Volume, volume)),
        }
    }
}

impl Provider for Adopting {
    fn may_wait(&self, key: Option<&str>) -> bool {
        self.local.may_wait(key)
    }

    fn generate_data_key(&self, key: &str, context: &EncryptionContext) -> Result<DataKey, ProviderError> {
        self.local.generate_data_key(key, context)
    }

    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError> {
        let Some(plaintext) = self.adopted(blob, context)? else {
            return self.local.unwrap(blob, context);
        };
        let (key_arn, key_version) =
            Blob::parse(blob).map(|blob| (blob.head.key.to_string(), blob.head.version)).unwrap_or_default();
        Ok(UnwrappedDataKey { plaintext, key_arn, key_version })
    }

    /// The data key passes through this process where the blob is one of another key store.
    fn rewrap(&self, blob: &[u8], context: &EncryptionContext, key: &str) -> Result<Vec<u8>, ProviderError> {
        match self.adopted(blob, context)? {
            Some(data_key) => self.local.wrap_data_key(key, &data_key, context),
            None => self.local.rewrap(blob, context, key),
        }
    }

    fn wrap_data_key(
        &self,
        key: &str,
        data_key: &Key,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, ProviderError> {
        self.local.wrap_data_key(key, data_key, context)
    }

    fn describe_key(&self, key: &str) -> Result<KeyMetadata, ProviderError> {
        self.local.describe_key(key)
    }

    fn create_internal_key(&self, description: &str) -> Result<KeyMetadata, ProviderError> {
        self.local.create_internal_key(description)
    }

    fn note_volume(&self, note: &NoteVolumeRequest) -> Result<(), ProviderError> {
        self.local.note_volume(note)
    }

    fn attach(&self, watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError> {
        self.local.attach(watcher)
    }
}
