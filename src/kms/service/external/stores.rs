//! Making, describing, changing and deleting custom key stores.

use std::ops::Bound;
use std::sync::Arc;

use super::{CustomStore, UnderWay, refusals, settings};
use crate::kms::api::{
    CreateCustomKeyStoreRequest, CreateCustomKeyStoreResponse, CustomKeyStoreRequest,
    DescribeCustomKeyStoresRequest, DescribeCustomKeyStoresResponse, Empty, UpdateCustomKeyStoreRequest,
};
use crate::kms::custom_store::ConnectionState;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::service::book::Book;
use crate::kms::service::keys::{page, page_limit};
use crate::kms::service::{Call, Caller, Service};
use crate::kms::state::Operation;
use crate::kms::store::{Change, CustomStoreRecord, Record, RecordName};
use crate::xks::ProxyError;

/// Most custom key stores, as in AWS.
const MAX_CUSTOM_STORES: usize = 10;

impl Service {
    /// CreateCustomKeyStore. The proxy is asked for its health before; it is not connected afterwards.
    ///
    /// # Errors
    /// Validation; UnsupportedOperation for other types than external ones; CustomKeyStoreNameInUse,
    /// XksProxyUriInUse; LimitExceeded beyond 10; XksProxyUriUnreachable, XksProxyInvalidResponse,
    /// XksProxyInvalidConfiguration, XksProxyIncorrectCredential; AccessDenied; Internal.
    pub fn create_custom_key_store(
        &self,
        caller: &Caller,
        request: &CreateCustomKeyStoreRequest,
    ) -> Result<CreateCustomKeyStoreResponse, KmsError> {
        self.run(caller, Operation::CreateCustomKeyStore, request, |call| {
            self.admit_general(call)?;
            let mut record = settings::record(request, call.now)?;
            record.id = settings::fresh_id()?;
            let id = record.id.clone();
            let custom = CustomStore::new(record, &self.network, self.realm())?;
            check_new(&self.book.read(), &custom)?;
            self.check_health(call, &custom).map_err(refusals::of_store)?;
            let _writing = self.writes.lock();
            check_new(&self.book.read(), &custom)?;
            self.store.commit(&[Change::Put(&Record::CustomStoreV1(custom.record.clone()))])?;
            self.book.write().put_custom_store(custom, self.realm());
            call.answers("customKeyStoreId", id.clone());
            Ok(CreateCustomKeyStoreResponse { custom_key_store_id: id })
        })
    }

    /// DescribeCustomKeyStores, in order of their ids.
    ///
    /// # Errors
    /// CustomKeyStoreNotFound, Validation, AccessDenied.
    pub fn describe_custom_key_stores(
        &self,
        caller: &Caller,
        request: &DescribeCustomKeyStoresRequest,
    ) -> Result<DescribeCustomKeyStoresResponse, KmsError> {
        self.run(caller, Operation::DescribeCustomKeyStores, request, |call| {
            self.admit_general(call)?;
            let limit = page_limit(request.limit, 100, 1000)?;
            let book = self.book.read();
            let (id, name) = (&request.custom_key_store_id, &request.custom_key_store_name);
            let one = match (id, name) {
                (Some(_), Some(_)) => {
                    return Err(KmsError::validation(
                        "Give CustomKeyStoreId or CustomKeyStoreName, not both",
                    ));
                }
                (Some(id), None) => Some(book.custom_store(id)?),
                (None, Some(name)) => {
                    let found = book.custom_stores.values().find(|custom| custom.record.name == *name);
                    let message = "There is no custom key store of this name.";
                    let missing = || KmsError::new(ErrorKind::CustomKeyStoreNotFound, message);
                    Some(found.ok_or_else(missing)?)
                }
                (None, None) => None,
            };
            if let Some(one) = one {
                let custom_key_stores = vec![one.described()];
                return Ok(DescribeCustomKeyStoresResponse { custom_key_stores, ..Default::default() });
            }
            let from = request.marker.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let listed = book.custom_stores.range::<str, _>((from, Bound::Unbounded));
            let (custom_key_stores, truncated) = page(listed.map(|(_, custom)| custom.described()), limit);
            let last = custom_key_stores.last().filter(|_| truncated);
            let next_marker = last.map(|last| last.custom_key_store_id.clone());
            Ok(DescribeCustomKeyStoresResponse { custom_key_stores, next_marker, truncated })
        })
    }

    /// UpdateCustomKeyStore. The name and the credential may change while it is connected, the rest
    /// while it is disconnected. The proxy is asked for its health with what is new.
    ///
    /// # Errors
    /// CustomKeyStoreNotFound, CustomKeyStoreInvalidState; else as
    /// [`Service::create_custom_key_store`].
    pub fn update_custom_key_store(
        &self,
        caller: &Caller,
        request: &UpdateCustomKeyStoreRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::UpdateCustomKeyStore, request, |call| {
            self.admit_general(call)?;
            let old = Arc::clone(self.book.read().custom_store(&request.custom_key_store_id)?);
            let record = settings::updated(&old.record, request)?;
            check_may_update(&old, &record)?;
            let asks_otherwise = Asked::of(&record) != Asked::of(&old.record);
            let new = CustomStore::new(record, &self.network, self.realm())?;
            check_unique(&self.book.read(), &new)?;
            if asks_otherwise {
                self.check_health(call, &new).map_err(refusals::of_store)?;
            }
            let _writing = self.writes.lock();
            let current = Arc::clone(self.book.read().custom_store(&request.custom_key_store_id)?);
            if current.record != old.record {
                let message = "The custom key store was changed meanwhile; look at it, then retry.";
                return Err(KmsError::new(ErrorKind::CustomKeyStoreInvalidState, message));
            }
            check_may_update(&current, &new.record)?;
            check_unique(&self.book.read(), &new)?;
            self.store.commit(&[Change::Put(&Record::CustomStoreV1(new.record.clone()))])?;
            let proxy = if asks_otherwise { &new.proxy } else { &current.proxy };
            let new = CustomStore { proxy: Arc::clone(proxy), ..new };
            self.book.write().put_custom_store(new, self.realm());
            Ok(Empty {})
        })
    }

    /// DeleteCustomKeyStore: of one that is disconnected and has no keys, not even ones that wait for
    /// their deletion.
    ///
    /// # Errors
    /// CustomKeyStoreNotFound, CustomKeyStoreInvalidState, CustomKeyStoreHasKeys, AccessDenied,
    /// Internal.
    pub fn delete_custom_key_store(
        &self,
        caller: &Caller,
        request: &CustomKeyStoreRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::DeleteCustomKeyStore, request, |call| {
            self.admit_general(call)?;
            let id = &request.custom_key_store_id;
            let _writing = self.writes.lock();
            {
                let book = self.book.read();
                let custom = book.custom_store(id)?;
                if custom.state().0 != ConnectionState::Disconnected {
                    return Err(custom.refused_in_state());
                }
                let keys = book.keys_in(id).len();
                if keys > 0 {
                    let message = format!("The custom key store {id} has {keys} keys.");
                    return Err(KmsError::new(ErrorKind::CustomKeyStoreHasKeys, message));
                }
            }
            self.store.commit(&[Change::Drop(RecordName::CustomStore(id))])?;
            self.book.write().custom_stores.remove(id);
            Ok(Empty {})
        })
    }

    /// Asks a proxy whether it and a key manager behind it can be used.
    pub(super) fn check_health(&self, call: &Call<'_>, custom: &CustomStore) -> Result<(), ProxyError> {
        let request_id = call.id.to_string();
        let occasion = crate::xks::Occasion {
            principal: None,
            key_arn: None,
            operation: call.operation.name(),
            request_id: &request_id,
        };
        let health = custom.proxy.health(occasion, self.clock.now())?;
        if health.is_usable() { Ok(()) } else { Err(ProxyError::Unreachable) }
    }
}

/// What a proxy is asked by.
#[derive(PartialEq)]
struct Asked<'a>(&'a str, &'a str, Option<&'a str>, &'a str, &'a str);

impl<'a> Asked<'a> {
    fn of(record: &'a CustomStoreRecord) -> Self {
        let CustomStoreRecord { endpoint, path, trust_anchor, access_key_id, secret, .. } = record;
        Self(endpoint, path, trust_anchor.as_deref(), access_key_id, secret)
    }
}

fn check_may_update(old: &CustomStore, new: &CustomStoreRecord) -> Result<(), KmsError> {
    let leads_elsewhere = |record: &CustomStoreRecord| {
        (record.endpoint.clone(), record.path.clone(), record.trust_anchor.clone())
    };
    let moves = leads_elsewhere(&old.record) != leads_elsewhere(new);
    match old.under_way {
        None if matches!(old.state().0, ConnectionState::Disconnected) => Ok(()),
        None if old.is_connected() && !moves => Ok(()),
        None | Some(UnderWay::Connecting(_) | UnderWay::Disconnecting) => Err(old.refused_in_state()),
    }
}

/// Whether there may be one more, and this one.
fn check_new(book: &Book, new: &CustomStore) -> Result<(), KmsError> {
    if book.custom_stores.len() >= MAX_CUSTOM_STORES {
        let message = "there are 10 custom key stores, which is the limit";
        return Err(KmsError::new(ErrorKind::LimitExceeded, message));
    }
    check_unique(book, new)
}

fn check_unique(book: &Book, new: &CustomStore) -> Result<(), KmsError> {
    let others = || book.custom_stores.values().filter(|other| other.record.id != new.record.id);
    if others().any(|other| other.record.name == new.record.name) {
        let message = format!("A custom key store with the name {} already exists.", new.record.name);
        return Err(KmsError::new(ErrorKind::CustomKeyStoreNameInUse, message));
    }
    match others().find(|other| other.proxy.address() == new.proxy.address()) {
        None => Ok(()),
        Some(other) => {
            let message = format!("The custom key store {} has this proxy URI already.", other.record.id);
            Err(KmsError::new(ErrorKind::XksProxyUriInUse, message))
        }
    }
}
