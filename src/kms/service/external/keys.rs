//! Making keys that stand for keys elsewhere.

use std::sync::Arc;

use super::{Link, refusals};
use crate::kms::api::CreateKeyRequest;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::service::creation::Kind;
use crate::kms::service::{Call, Service};
use crate::kms::spec::{KeySpec, Origin};
use crate::kms::state::KeyManager;

/// Longest id of a key elsewhere.
const MAX_KEY_ID: usize = 128;

impl Service {
    /// What a new key is to be linked to; `None` for one that is not of a custom key store. Asks the
    /// proxy; no lock may be held.
    ///
    /// # Errors
    /// Validation, UnsupportedOperation; CustomKeyStoreNotFound, CustomKeyStoreInvalidState;
    /// XksKeyAlreadyInUse, XksKeyNotFound, XksKeyInvalidConfiguration.
    pub(in crate::kms::service) fn link_of_new(
        &self,
        call: &Call<'_>,
        request: &CreateKeyRequest,
        kind: Kind,
    ) -> Result<Option<Link>, KmsError> {
        let asked = (request.custom_key_store_id.as_deref(), request.xks_key_id.as_deref());
        if kind.origin != Origin::ExternalKeyStore {
            return match asked {
                (None, None) => Ok(None),
                _ => {
                    let message = "CustomKeyStoreId and XksKeyId go with Origin EXTERNAL_KEY_STORE alone";
                    Err(KmsError::validation(message))
                }
            };
        }
        let (Some(store), Some(xks_key_id)) = asked else {
            let message = "Origin EXTERNAL_KEY_STORE requires CustomKeyStoreId and XksKeyId";
            return Err(KmsError::validation(message));
        };
        check_key_id(xks_key_id)?;
        if kind.spec != KeySpec::SymmetricDefault || request.manager != KeyManager::Customer {
            let message = "a custom key store has symmetric encryption keys of customers alone";
            return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
        }
        let link = Link::new(Arc::clone(self.book.read().custom_store(store)?), xks_key_id);
        self.check_link(&link)?;
        let facts = self.with_occasion(call, None, |occasion| {
            link.store.proxy.key_facts(xks_key_id, occasion, self.clock.now())
        })?;
        let facts = facts.map_err(refusals::of_key)?;
        if facts.is_aes_256() && facts.wraps_and_unwraps() && facts.is_enabled() {
            return Ok(Some(link));
        }
        let message = "The external key must be an enabled AES-256 key that encrypts and decrypts.";
        Err(KmsError::new(ErrorKind::XksKeyInvalidConfiguration, message))
    }

    /// Whether random numbers can be had from `store`.
    ///
    /// # Errors
    /// CustomKeyStoreNotFound, UnsupportedOperation: external key stores make none.
    pub(in crate::kms::service) fn check_makes_random(&self, store: Option<&str>) -> Result<(), KmsError> {
        let Some(store) = store else { return Ok(()) };
        self.book.read().custom_store(store)?;
        let message = "External key stores make no random numbers; leave out CustomKeyStoreId.";
        Err(KmsError::new(ErrorKind::UnsupportedOperation, message))
    }

    /// The link as it is now, if a key may still be made with it. The caller holds `writes`.
    ///
    /// # Errors
    /// CustomKeyStoreNotFound, CustomKeyStoreInvalidState, XksKeyAlreadyInUse.
    pub(in crate::kms::service) fn renewed(&self, link: Link) -> Result<Link, KmsError> {
        let store = Arc::clone(self.book.read().custom_store(&link.store.record.id)?);
        let link = Link { store, ..link };
        self.check_link(&link)?;
        Ok(link)
    }

    /// Whether the custom key store takes a key, and this one.
    fn check_link(&self, link: &Link) -> Result<(), KmsError> {
        if !link.store.is_connected() || link.store.under_way.is_some() {
            return Err(link.store.refused_in_state());
        }
        let id = &link.store.record.id;
        let book = self.book.read();
        let is_same = |other: &Link| other.store.record.id == *id && other.xks_key_id == link.xks_key_id;
        let mut taken = book.keys.values().filter(|entry| entry.link.as_ref().is_some_and(is_same));
        match taken.next() {
            None => Ok(()),
            Some(other) => {
                let message = format!("{} stands for this external key already.", other.arn);
                Err(KmsError::new(ErrorKind::XksKeyAlreadyInUse, message))
            }
        }
    }
}

/// It goes into a path, so it must not be one that leads elsewhere.
fn check_key_id(id: &str) -> Result<(), KmsError> {
    let is_of_id = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=MAX_KEY_ID).contains(&id.len()) && id.bytes().all(is_of_id);
    if fits && !matches!(id, "." | "..") {
        return Ok(());
    }
    Err(KmsError::validation("XksKeyId must be 1 to 128 letters, digits or any of - _ ."))
}
