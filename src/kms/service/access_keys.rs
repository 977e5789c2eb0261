//! Access keys: who may come over the network, and what proves it. They are managed by the account's
//! root, on this machine, alone.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::facts::Facts;
use super::{Call, Caller, Service};
use crate::kms::api::{
    AccessKeyMetadata, CreateAccessKeyRequest, CreateAccessKeyResponse, DeleteAccessKeyRequest, Empty,
    ListAccessKeysResponse, UpdateAccessKeyRequest,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::state::Operation;
use crate::kms::store::{AccessKeyRecord, Change, Record, RecordName};

/// Most access keys of one user: enough to replace one while the other is in use.
const MAX_PER_USER: usize = 10;
/// Most access keys of a store.
const MAX_ACCESS_KEYS: usize = 10_000;
const MAX_USER: usize = 64;
/// Bytes of a fresh secret: 40 characters, as AWS's have.
const SECRET_BYTES: usize = 30;
/// Random bytes of a fresh id: 16 characters behind its prefix.
const ID_BYTES: usize = 10;
const ID_PREFIX: &str = "AKFS";

/// What verifies the requests of a user.
#[derive(Clone)]
pub struct AccessKey {
    /// Whose it is.
    pub user: String,
    /// What it signs with.
    pub secret: Zeroizing<String>,
}

/// Never shows the secret.
impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Service {
    /// CreateAccessKey: a fresh one, or one that was made elsewhere. The only answer that has the
    /// secret.
    ///
    /// # Errors
    /// Validation; AlreadyExists for an id that is taken; LimitExceeded beyond 10 of a user;
    /// AccessDenied; Internal.
    pub fn create_access_key(
        &self,
        caller: &Caller,
        request: &CreateAccessKeyRequest,
    ) -> Result<CreateAccessKeyResponse, KmsError> {
        self.run(caller, Operation::CreateAccessKey, request, |call| {
            self.admit_owner(call)?;
            check_user(&request.user_name)?;
            let (id, secret) = match (&request.access_key_id, &request.secret_access_key) {
                (None, None) => fresh()?,
                (Some(id), Some(secret)) => brought(id, secret)?,
                _ => {
                    return Err(KmsError::validation("AccessKeyId and SecretAccessKey go together"));
                }
            };
            let user = request.user_name.clone();
            let record = AccessKeyRecord { id, user, secret, enabled: true, created: call.now };
            let _writing = self.writes.lock();
            {
                let book = self.book.read();
                if book.access_keys.contains_key(&record.id) {
                    let message = format!("An access key with the id {} already exists", record.id);
                    return Err(KmsError::new(ErrorKind::AlreadyExists, message));
                }
                let of_user = book.access_keys.values().filter(|key| key.user == record.user).count();
                if of_user >= MAX_PER_USER || book.access_keys.len() >= MAX_ACCESS_KEYS {
                    let message = "a user has at most 10 access keys, and a key store 10000";
                    return Err(KmsError::new(ErrorKind::LimitExceeded, message));
                }
            }
            let response = CreateAccessKeyResponse {
                access_key: metadata(&record),
                secret_access_key: record.secret.clone(),
            };
            self.publish_access_key(record)?;
            Ok(response)
        })
    }

    /// ListAccessKeys: all of them, without their secrets.
    ///
    /// # Errors
    /// AccessDenied.
    pub fn list_access_keys(&self, caller: &Caller) -> Result<ListAccessKeysResponse, KmsError> {
        self.run(caller, Operation::ListAccessKeys, &NoParameters, |call| {
            self.admit_owner(call)?;
            let access_keys = self.book.read().access_keys.values().map(metadata).collect();
            Ok(ListAccessKeysResponse { access_keys })
        })
    }

    /// UpdateAccessKey: disables one or enables it again. From then on requests are believed, or
    /// not; those under way are finished.
    ///
    /// # Errors
    /// NotFound, Validation, AccessDenied, Internal.
    pub fn update_access_key(
        &self,
        caller: &Caller,
        request: &UpdateAccessKeyRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::UpdateAccessKey, request, |call| {
            self.admit_owner(call)?;
            let enabled = match request.status.as_str() {
                "Active" => true,
                "Inactive" => false,
                _ => return Err(KmsError::validation("Status must be Active or Inactive")),
            };
            let _writing = self.writes.lock();
            let old = self.book.read().access_keys.get(&request.access_key_id).cloned();
            let old = old.ok_or_else(|| no_access_key(&request.access_key_id))?;
            self.publish_access_key(AccessKeyRecord { enabled, ..old })
        })
    }

    /// DeleteAccessKey.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Internal.
    pub fn delete_access_key(
        &self,
        caller: &Caller,
        request: &DeleteAccessKeyRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::DeleteAccessKey, request, |call| {
            self.admit_owner(call)?;
            let _writing = self.writes.lock();
            if !self.book.read().access_keys.contains_key(&request.access_key_id) {
                return Err(no_access_key(&request.access_key_id));
            }
            self.store.commit(&[Change::Drop(RecordName::AccessKey(&request.access_key_id))])?;
            self.book.write().access_keys.remove(&request.access_key_id);
            Ok(Empty {})
        })
    }

    /// What verifies requests that say they were signed with this access key; `None` if there is no
    /// such key, or it is disabled. For front ends, before there is a caller.
    pub fn access_key(&self, id: &str) -> Option<AccessKey> {
        let book = self.book.read();
        let record = book.access_keys.get(id).filter(|key| key.enabled)?;
        Some(AccessKey { user: record.user.clone(), secret: record.secret.clone() })
    }

    /// Whoever can make an access key can be anybody: no policy gives this away.
    fn admit_owner(&self, call: &Call<'_>) -> Result<(), KmsError> {
        if call.caller.remote.is_some() {
            let message = "access keys are managed by the owner of the key store, on its machine";
            return Err(KmsError::new(ErrorKind::AccessDenied, message));
        }
        self.demand_root(call.caller, call.operation.name())
    }

    fn publish_access_key(&self, record: AccessKeyRecord) -> Result<Empty, KmsError> {
        self.store.commit(&[Change::Put(&Record::AccessKeyV1(record.clone()))])?;
        self.book.write().access_keys.insert(record.id.clone(), record);
        Ok(Empty {})
    }
}

fn metadata(record: &AccessKeyRecord) -> AccessKeyMetadata {
    AccessKeyMetadata {
        access_key_id: record.id.clone(),
        user_name: record.user.clone(),
        status: if record.enabled { "Active" } else { "Inactive" }.to_owned(),
        create_date: record.created,
    }
}

/// An id and a secret that nobody had before.
fn fresh() -> Result<(String, Zeroizing<String>), KmsError> {
    let mut id = [0; ID_BYTES];
    getrandom::fill(&mut id)?;
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    getrandom::fill(&mut *secret)?;
    let id = format!("{ID_PREFIX}{}", data_encoding::BASE32_NOPAD.encode(&id));
    Ok((id, Zeroizing::new(data_encoding::BASE64.encode(&*secret))))
}

/// An id and a secret from elsewhere, within AWS's bounds.
fn brought(id: &str, secret: &Zeroizing<String>) -> Result<(String, Zeroizing<String>), KmsError> {
    let is_id = (16..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_id {
        return Err(KmsError::validation("AccessKeyId must be 16 to 128 letters, digits or '_'"));
    }
    if !(32..=128).contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(KmsError::validation(
            "SecretAccessKey must be 32 to 128 printable characters without spaces",
        ));
    }
    Ok((id.to_owned(), secret.clone()))
}

fn check_user(user: &str) -> Result<(), KmsError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if (1..=MAX_USER).contains(&user.len()) && user.bytes().all(allowed) {
        return Ok(());
    }
    Err(KmsError::validation("UserName must be 1 to 64 letters, digits or any of + = , . @ _ -"))
}

fn no_access_key(id: &str) -> KmsError {
    let id: String = id.chars().filter(|c| !c.is_control()).take(128).collect();
    KmsError::new(ErrorKind::NotFound, format!("The access key {id} does not exist"))
}

struct NoParameters;

impl Facts for NoParameters {
    fn parameters(&self) -> Value {
        json!({})
    }
}

/// Without the secret, which must not pass through anything that makes copies.
impl Facts for CreateAccessKeyRequest {
    fn parameters(&self) -> Value {
        json!({ "UserName": self.user_name, "AccessKeyId": self.access_key_id })
    }
}

impl Facts for UpdateAccessKeyRequest {
    fn parameters(&self) -> Value {
        json!({ "AccessKeyId": self.access_key_id, "Status": self.status })
    }
}

impl Facts for DeleteAccessKeyRequest {
    fn parameters(&self) -> Value {
        json!({ "AccessKeyId": self.access_key_id })
    }
}
