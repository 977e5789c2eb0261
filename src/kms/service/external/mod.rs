//! Custom key stores: keys whose other half a key manager elsewhere has.
//!
//! Whatever such a key encrypts was sealed before under material of our own, so the key manager never
//! sees a plaintext, and neither half opens anything alone.
//!
//! | module | |
//! |---|---|
//! | `stores` | the operations on custom key stores |
//! | `settings` | what they may be asked for |
//! | `connection` | connecting and disconnecting, and how the mounts follow |
//! | `keys` | making keys in them |
//! | `wrapping` | using these |
//! | `refusals` | what a proxy's failure is called |
//!
//! A proxy is asked without any lock: it may take a second. What it was asked for is looked at again
//! afterwards.

mod connection;
mod keys;
mod refusals;
mod settings;
mod stores;
mod wrapping;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::book::{Book, Spelling};
use super::{Call, Service};
use crate::kms::api::{CustomKeyStoresListEntry, XksKeyConfiguration, XksProxyConfiguration};
use crate::kms::custom_store::{ConnectionErrorCode, ConnectionState};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::{KeyId, Realm};
use crate::kms::store::{Connection, CustomStoreRecord, ExternalKeyRecord, StoreError};
use crate::xks::{Access, Address, Occasion, Proxy, Trust};

pub(super) use crate::xks::Network;

/// The type of custom key store that there is.
const EXTERNAL_KEY_STORE: &str = "EXTERNAL_KEY_STORE";
/// How a proxy is reached: there is no cloud around us to reach it within.
const PUBLIC_ENDPOINT: &str = "PUBLIC_ENDPOINT";

/// A custom key store. Never changed: a change replaces it, in the book and in the entries of its
/// keys, under the book's write lock. So once it is disconnected, nobody who holds the book's lock
/// sees it connected.
pub(super) struct CustomStore {
    pub(super) record: CustomStoreRecord,
    proxy: Arc<Proxy>,
    /// What is about to become of it. In the book alone.
    under_way: Option<UnderWay>,
}

/// A change of the connection that takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    /// With a number, for it can be overtaken.
    Connecting(u64),
    Disconnecting,
}

/// What leads to the other half of a key.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) store: Arc<CustomStore>,
    /// The key manager's id of it.
    xks_key_id: Arc<str>,
}

impl CustomStore {
    /// The custom key store that `record` describes.
    ///
    /// # Errors
    /// Validation when that leads nowhere.
    pub(super) fn new(
        record: CustomStoreRecord,
        network: &Arc<Network>,
        realm: &Realm,
    ) -> Result<Self, KmsError> {
        let address = Address::parse(&record.endpoint, &record.path);
        let address = address.map_err(|error| KmsError::validation(error.to_string()))?;
        let trust = match record.trust_anchor.as_deref().map(Trust::anchors) {
            None => Trust::System,
            Some(Ok(trust)) => trust,
            // It was checked when it was given. A release that reads certificates otherwise must not
            // keep the whole key store from being opened.
            Some(Err(error)) => {
                tracing::error!(custom_key_store = record.id, %error, "nobody's certificates are believed");
                Trust::nobody()
            }
        };
        let access = Access {
            region: realm.region.clone(),
            access_key_id: record.access_key_id.clone(),
            secret: record.secret.clone(),
        };
        let proxy = Arc::new(Proxy::new(Arc::clone(network), address, trust, access));
        Ok(Self { record, proxy, under_way: None })
    }

    /// Whether its keys can be used.
    pub(super) fn is_connected(&self) -> bool {
        self.record.connection == Connection::Connected
    }

    fn state(&self) -> (ConnectionState, Option<ConnectionErrorCode>) {
        match (self.under_way, self.record.connection) {
            (Some(UnderWay::Connecting(_)), _) => (ConnectionState::Connecting, None),
            (Some(UnderWay::Disconnecting), _) => (ConnectionState::Disconnecting, None),
            (None, Connection::Connected) => (ConnectionState::Connected, None),
            (None, Connection::Disconnected) => (ConnectionState::Disconnected, None),
            (None, Connection::Failed(code)) => (ConnectionState::Failed, Some(code)),
        }
    }

    /// The same, with another connection; the proxy's connections are kept.
    fn with_connection(&self, connection: Connection) -> Self {
        let record = CustomStoreRecord { connection, ..self.record.clone() };
        Self { record, proxy: Arc::clone(&self.proxy), under_way: None }
    }

    /// The same, while something is under way.
    fn with_under_way(&self, under_way: Option<UnderWay>) -> Self {
        Self { record: self.record.clone(), proxy: Arc::clone(&self.proxy), under_way }
    }

    fn described(&self) -> CustomKeyStoresListEntry {
        let record = &self.record;
        let (connection_state, connection_error_code) = self.state();
        CustomKeyStoresListEntry {
            custom_key_store_id: record.id.clone(),
            custom_key_store_name: record.name.clone(),
            trust_anchor_certificate: record.trust_anchor.clone(),
            connection_state,
            connection_error_code,
            creation_date: record.created,
            custom_key_store_type: EXTERNAL_KEY_STORE.to_owned(),
            xks_proxy_configuration: XksProxyConfiguration {
                connectivity: PUBLIC_ENDPOINT.to_owned(),
                access_key_id: record.access_key_id.clone(),
                uri_endpoint: record.endpoint.clone(),
                uri_path: record.path.clone(),
            },
        }
    }

    /// Refuses what must not be done in `state`.
    fn refused_in_state(&self) -> KmsError {
        let (id, (state, _)) = (&self.record.id, self.state());
        let message = format!("The custom key store {id} is {state}, which does not allow the request.");
        KmsError::new(ErrorKind::CustomKeyStoreInvalidState, message)
    }
}

impl Service {
    /// Whether a use of `key` (id or ARN) asks a proxy.
    pub fn asks_elsewhere(&self, key: &str) -> bool {
        let book = self.book.read();
        book.resolve(key, Spelling::Any, self.realm()).is_ok_and(|entry| entry.link.is_some())
    }
}

impl Link {
    fn new(store: Arc<CustomStore>, xks_key_id: &str) -> Self {
        Self { store, xks_key_id: xks_key_id.into() }
    }

    pub(super) fn record_of(&self, key: &KeyId) -> ExternalKeyRecord {
        let (store, xks_key_id) = (self.store.record.id.clone(), self.xks_key_id.to_string());
        ExternalKeyRecord { key: *key, store, xks_key_id }
    }

    pub(super) fn configuration(&self) -> XksKeyConfiguration {
        XksKeyConfiguration { id: self.xks_key_id.to_string() }
    }

    /// What the audit log says of a use.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let record = &self.store.record;
        let (id, endpoint) = (record.id.as_str(), record.endpoint.as_str());
        [("customKeyStoreId", id), ("xksProxyUriEndpoint", endpoint), ("xksKeyId", &*self.xks_key_id)]
            .into_iter()
    }
}

impl Book {
    /// What the keys of custom key stores are linked to.
    pub(super) fn links(&self, records: Vec<ExternalKeyRecord>) -> Result<BTreeMap<KeyId, Link>, StoreError> {
        let link = |record: ExternalKeyRecord| {
            let store = self.custom_stores.get(&record.store);
            let store = store.ok_or_else(|| StoreError::damaged("a key without its custom key store"))?;
            Ok((record.key, Link::new(Arc::clone(store), &record.xks_key_id)))
        };
        records.into_iter().map(link).collect()
    }

    fn custom_store(&self, id: &str) -> Result<&Arc<CustomStore>, KmsError> {
        self.custom_stores.get(id).ok_or_else(|| {
            let id: String = id.chars().filter(|c| !c.is_control()).take(64).collect();
            KmsError::new(ErrorKind::CustomKeyStoreNotFound, format!("There is no custom key store {id}."))
        })
    }

    /// The keys of a custom key store, in order.
    fn keys_in(&self, store: &str) -> Vec<KeyId> {
        let is_in = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.store.record.id == store);
        self.keys.values().filter(|entry| is_in(&entry.link)).map(|entry| entry.record.id).collect()
    }

    /// Puts `store` in place of the one of its id, for its keys too.
    fn put_custom_store(&mut self, store: CustomStore, realm: &Realm) {
        let store = Arc::new(store);
        for id in self.keys_in(&store.record.id) {
            let Some(entry) = self.keys.get_mut(&id) else { continue };
            let link = entry.link.as_ref().map(|link| Link { store: Arc::clone(&store), ..link.clone() });
            let new = entry.successor(entry.record.clone(), entry.material.clone(), realm).with_link(link);
            *entry = Arc::new(new);
        }
        self.custom_stores.insert(store.record.id.clone(), store);
    }
}

impl Service {
    /// Asks a proxy something on behalf of `call`. No lock may be held.
    fn with_occasion<T>(
        &self,
        call: &Call<'_>,
        key_arn: Option<&str>,
        ask: impl FnOnce(Occasion<'_>) -> T,
    ) -> Result<T, KmsError> {
        let request_id = call.id.to_string();
        Ok(ask(Occasion {
            principal: Some(call.identity()?.arn()),
            key_arn,
            operation: call.operation.name(),
            request_id: &request_id,
        }))
    }
}
