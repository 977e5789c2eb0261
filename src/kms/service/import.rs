//! Material that is made elsewhere: parameters for its import, the import, its deletion and its end.
//!
//! A key of origin EXTERNAL takes one material for life: once it had some, the same and no other
//! comes back. Without it the key is PendingImport, and the mounts follow as they follow DisableKey.
//! What unwraps the material is sealed in the store with its token, so both survive a restart.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::book::{Book, Entry, Spelling};
use super::held::Held;
use super::keys::version;
use super::transition::IfUnwritten;
use super::{Call, Caller, Service, creation};
use crate::kms::api::{
    DeleteImportedKeyMaterialRequest, ExpirationModel, GetParametersForImportRequest,
    GetParametersForImportResponse, ImportKeyMaterialRequest, ImportResponse,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::KeyId;
use crate::kms::material::{Parsed, WRAPPING_SPECS, WrappingAlgorithm, WrappingKey};
use crate::kms::spec::{KeySpec, Origin};
use crate::kms::state::{KeyState, Operation};
use crate::kms::store::{Change, ImportRecord, KeyRecord, Record, RecordName, VersionCause};
use crate::kms::watch::CutReport;

/// How long a token and its wrapping key can be used.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// How long a token is known to have been one, so that its refusal can say why.
const TOKEN_MEMORY: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Imports of one key that may be under way at once; a further one takes the place of the oldest.
const MAX_IMPORTS_PER_KEY: usize = 4;
/// Longest time for which imported material can be set to last.
const MAX_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);

impl Service {
    /// GetParametersForImport. Takes up to seconds.
    ///
    /// # Errors
    /// NotFound, AccessDenied, InvalidState; UnsupportedOperation for keys whose material is not
    /// imported and for wrapping that this service does not do; Validation, Internal.
    pub fn get_parameters_for_import(
        &self,
        caller: &Caller,
        request: &GetParametersForImportRequest,
    ) -> Result<GetParametersForImportResponse, KmsError> {
        self.run(caller, Operation::GetParametersForImport, request, |call| {
            let entry = self.importing(call, &request.key_id)?;
            let algorithm = wrapping_algorithm(&request.wrapping_algorithm)?;
            let spec = wrapping_spec(&request.wrapping_key_spec)?;
            let (wrapping_key, public_key) = WrappingKey::generate(spec)?;
            let mut token = [0; 32];
            getrandom::fill(&mut token)?;
            let valid_to = call.now.checked_add(TOKEN_LIFE).unwrap_or(Timestamp::MAX);
            let record = ImportRecord {
                key: entry.record.id,
                algorithm: algorithm.name().to_owned(),
                wrapping_key,
                token,
                valid_to,
            };
            self.begin_import(record, call.now)?;
            Ok(GetParametersForImportResponse {
                key_id: entry.arn.clone(),
                import_token: token.to_vec(),
                public_key,
                parameters_valid_to: valid_to,
            })
        })
    }

    /// ImportKeyMaterial. A key that was PendingImport is Enabled afterwards, on the mounts too.
    ///
    /// # Errors
    /// NotFound, AccessDenied, InvalidState, UnsupportedOperation, Validation;
    /// InvalidImportToken, ExpiredImportToken; InvalidCiphertext for what does not unwrap;
    /// IncorrectKeyMaterial for what is not of the key's spec or not what it had before; Internal.
    pub fn import_key_material(
        &self,
        caller: &Caller,
        request: &ImportKeyMaterialRequest,
    ) -> Result<ImportResponse, KmsError> {
        self.run(caller, Operation::ImportKeyMaterial, request, |call| {
            let entry = self.importing(call, &request.key_id)?;
            let expires = expiry(request, call.now)?;
            let import = self.find_import(&entry, &request.import_token, call.now)?;
            let bytes = unwrap(&import, &request.encrypted_key_material)?;
            let spec = entry.record.spec;
            let (canonical, _) = Parsed::canonical(spec, &bytes).map_err(|error| {
                KmsError::new(ErrorKind::IncorrectKeyMaterial, format!("{error}, {spec}"))
            })?;
            let held = Arc::new(Held::new(creation::keep(spec, &canonical), 0));
            held.parsed(spec, entry.record.usage)
                .map_err(|error| KmsError::new(ErrorKind::IncorrectKeyMaterial, error.message()))?;

            let id = entry.record.id;
            let _turn = self.turns.take(id);
            let old = self.entry(&id)?;
            // What was true a moment ago may have changed while others had their turn.
            crate::kms::state::check(call.operation, &old.arn, old.state_at(call.now))?;
            check_known(&old, &held, request)?;
            let (new, mounts) = self.put_material(&old, &held, expires, call.now)?;
            Ok(answer(&new, call.shows(mounts)))
        })
    }

    /// DeleteImportedKeyMaterial. When this returns, nothing under the key can be read; the answer
    /// says what was cut off. A key that has no material stays as it is.
    ///
    /// # Errors
    /// NotFound, AccessDenied, InvalidState, UnsupportedOperation, Unwritten, Internal.
    pub fn delete_imported_key_material(
        &self,
        caller: &Caller,
        request: &DeleteImportedKeyMaterialRequest,
    ) -> Result<ImportResponse, KmsError> {
        self.run(caller, Operation::DeleteImportedKeyMaterial, request, |call| {
            let id = self.importing(call, &request.key_id)?.record.id;
            let _turn = self.turns.take(id);
            let old = self.entry(&id)?;
            crate::kms::state::check(call.operation, &old.arn, old.state_at(call.now))?;
            if request.key_material_id.as_ref().is_some_and(|wanted| *wanted != old.fingerprint(1)) {
                let message = format!("{} has no such key material", old.arn);
                return Err(KmsError::new(ErrorKind::NotFound, message));
            }
            let unwritten = IfUnwritten::of(request.stop_if_unwritten);
            let dropped = self.drop_material(&old, unwritten);
            let (new, mounts) = dropped.map_err(|error| call.may_know(error))?;
            Ok(answer(&new, call.shows(mounts)))
        })
    }

    /// Deletes imported material whose time is over by `now`. What cannot be written now is tried
    /// again at the next call; until then the key is refused all the same.
    pub(super) fn expire_due(&self, now: Timestamp) {
        let due = |entry: &Entry| entry.expires().is_some_and(|at| at <= now.as_millisecond());
        let keys: Vec<KeyId> =
            self.book.read().keys.values().filter(|entry| due(entry)).map(|entry| entry.record.id).collect();
        for id in keys {
            let _turn = self.turns.take(id);
            let Ok(old) = self.entry(&id) else { continue };
            if !due(&old) {
                continue;
            }
            let drop = || self.drop_material(&old, IfUnwritten::GoOn);
            match self.by_itself("DeleteExpiredKeyMaterial", &old.arn, |_| drop()) {
                Ok(_) => tracing::info!(key = old.arn, "imported key material has expired"),
                Err(error) => {
                    tracing::error!(key = old.arn, %error, "expired key material could not be deleted");
                }
            }
        }
    }

    /// The key that `call` is to import for.
    fn importing(&self, call: &Call<'_>, key: &str) -> Result<Arc<Entry>, KmsError> {
        let entry = self.book.read().resolve(key, Spelling::IdOrArn, self.realm())?.clone();
        self.admit(call, &entry)?;
        if entry.record.origin != Origin::External {
            let (arn, origin) = (&entry.arn, entry.record.origin);
            let message = format!("{arn} origin is {origin} which is not valid for this operation.");
            return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
        }
        Ok(entry)
    }

    /// Makes an import durable, and forgets those that are long over or too many.
    fn begin_import(&self, record: ImportRecord, now: Timestamp) -> Result<(), KmsError> {
        let _writing = self.writes.lock();
        self.entry(&record.key)?;
        let forgotten = forgettable(&self.book.read(), &record.key, now);
        let stored = Record::ImportV1(record);
        let mut changes: Vec<_> =
            forgotten.iter().map(|token| Change::Drop(RecordName::Import(token))).collect();
        changes.push(Change::Put(&stored));
        self.store.commit(&changes)?;
        let mut book = self.book.write();
        book.imports.retain(|token, _| !forgotten.contains(token));
        if let Record::ImportV1(record) = stored {
            book.imports.insert(record.token, record);
        }
        Ok(())
    }

    fn find_import(&self, entry: &Entry, token: &[u8], now: Timestamp) -> Result<ImportRecord, KmsError> {
        let found = <[u8; 32]>::try_from(token).ok().and_then(|token| {
            let book = self.book.read();
            book.imports.get(&token).filter(|import| import.key == entry.record.id).cloned()
        });
        let Some(import) = found else {
            let message = format!("the import token was not made for {}", entry.arn);
            return Err(KmsError::new(ErrorKind::InvalidImportToken, message));
        };
        if import.valid_to <= now {
            let message = "the import token is older than 24 hours; get parameters for import anew";
            return Err(KmsError::new(ErrorKind::ExpiredImportToken, message));
        }
        Ok(import)
    }

    fn put_material(
        &self,
        old: &Entry,
        held: &Arc<Held>,
        expires: Option<i64>,
        now: Timestamp,
    ) -> Result<(Arc<Entry>, Vec<CutReport>), KmsError> {
        let id = old.record.id;
        let publish = || {
            let change = Change::PutMaterial { key: &id, version: 1, material: held.material() };
            self.publish(&id, vec![change], |record, material| {
                match record.versions.first_mut() {
                    Some(known) => known.present = true,
                    None => record.versions.push(version(held.material(), &id, now, VersionCause::Import)),
                }
                record.versions[0].expires = expires;
                if record.state == KeyState::PendingImport {
                    record.state = KeyState::Enabled;
                }
                *material = vec![Some(Arc::clone(held))];
            })
        };
        if old.record.state == KeyState::PendingImport {
            return self.transit(old, IfUnwritten::GoOn, publish);
        }
        Ok((publish()?, Vec::new()))
    }

    fn drop_material(
        &self,
        old: &Entry,
        unwritten: IfUnwritten,
    ) -> Result<(Arc<Entry>, Vec<CutReport>), KmsError> {
        let id = old.record.id;
        let publish = || {
            let change = Change::DropMaterial { key: &id, version: 1 };
            self.publish(&id, vec![change], |record, material| {
                forget(record);
                *material = vec![None; record.versions.len()];
            })
        };
        match old.record.state {
            _ if !old.record.versions.iter().any(|version| version.present) => {
                Ok((self.entry(&id)?, Vec::new()))
            }
            KeyState::PendingDeletion => Ok((publish()?, Vec::new())),
            _ => self.transit(old, unwritten, publish),
        }
    }
}

/// The record of a key without its material.
fn forget(record: &mut KeyRecord) {
    for version in &mut record.versions {
        (version.present, version.expires) = (false, None);
    }
    if record.state != KeyState::PendingDeletion {
        record.state = KeyState::PendingImport;
    }
}

/// Imports that need not be known any more when `key` begins another.
fn forgettable(book: &Book, key: &KeyId, now: Timestamp) -> Vec<[u8; 32]> {
    let old = |import: &&ImportRecord| import.valid_to.checked_add(TOKEN_MEMORY).is_ok_and(|at| at <= now);
    let mut forgotten: Vec<_> = book.imports.values().filter(old).map(|import| import.token).collect();
    let mut own: Vec<_> = book.imports.values().filter(|import| import.key == *key).collect();
    own.sort_by_key(|import| import.valid_to);
    let surplus = (own.len() + 1).saturating_sub(MAX_IMPORTS_PER_KEY);
    forgotten.extend(own.iter().take(surplus).map(|import| import.token));
    forgotten.sort_unstable();
    forgotten.dedup();
    forgotten
}

/// Refuses material that is not what the key had before, or what the request says.
fn check_known(old: &Entry, held: &Held, request: &ImportKeyMaterialRequest) -> Result<(), KmsError> {
    let incorrect = |message: &str| Err(KmsError::new(ErrorKind::IncorrectKeyMaterial, message));
    let known = old.record.versions.first().map(|version| version.fingerprint);
    let fingerprint = held.material().fingerprint(&old.record.id);
    match (request.import_type.as_deref(), known) {
        (None | Some("NEW_KEY_MATERIAL"), None) => {}
        (Some("EXISTING_KEY_MATERIAL"), None) => {
            return incorrect("the key never had any key material: import it as NEW_KEY_MATERIAL");
        }
        (None | Some("EXISTING_KEY_MATERIAL"), Some(known)) if known == fingerprint => {}
        (None | Some("EXISTING_KEY_MATERIAL"), Some(_)) => {
            return incorrect("this is not the key material that the key had before");
        }
        (Some("NEW_KEY_MATERIAL"), Some(_)) => {
            let message = "a key of this service takes one imported key material for life";
            return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
        }
        (Some(_), _) => {
            let message = "ImportType must be NEW_KEY_MATERIAL or EXISTING_KEY_MATERIAL";
            return Err(KmsError::validation(message));
        }
    }
    let wanted = request.key_material_id.as_deref();
    if wanted.is_some_and(|wanted| wanted != data_encoding::HEXLOWER.encode(&fingerprint)) {
        return incorrect("the key material has another id than KeyMaterialId");
    }
    Ok(())
}

fn unwrap(import: &ImportRecord, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let broken = || KmsError::new(ErrorKind::Internal, "a stored wrapping key cannot be used");
    let algorithm: WrappingAlgorithm = import.algorithm.parse().map_err(|_| broken())?;
    let key = WrappingKey::parse(&import.wrapping_key).map_err(|_| broken())?;
    key.unwrap(algorithm, wrapped).ok_or_else(|| {
        let message = format!(
            "the key material was not wrapped with {algorithm} under the public key that came with the token"
        );
        KmsError::new(ErrorKind::InvalidCiphertext, message)
    })
}

/// When the material is to go, in milliseconds since 1970.
fn expiry(request: &ImportKeyMaterialRequest, now: Timestamp) -> Result<Option<i64>, KmsError> {
    let model = request.expiration_model.unwrap_or(ExpirationModel::Expires);
    match (model, request.valid_to) {
        (ExpirationModel::DoesNotExpire, None) => Ok(None),
        (ExpirationModel::DoesNotExpire, Some(_)) => {
            Err(KmsError::validation("ValidTo is not possible with KEY_MATERIAL_DOES_NOT_EXPIRE"))
        }
        (ExpirationModel::Expires, None) => Err(KmsError::validation(
            "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
        )),
        (ExpirationModel::Expires, Some(at)) => {
            let latest = now.checked_add(MAX_LIFE).unwrap_or(Timestamp::MAX);
            if at <= now || at > latest {
                return Err(KmsError::validation("ValidTo must be in the future, by at most 365 days"));
            }
            Ok(Some(at.as_millisecond()))
        }
    }
}

fn wrapping_algorithm(name: &str) -> Result<WrappingAlgorithm, KmsError> {
    if matches!(name, "RSAES_PKCS1_V1_5" | "SM2PKE") {
        let message = format!("WrappingAlgorithm {name} is not supported");
        return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
    }
    name.parse().map_err(|error| KmsError::validation(format!("{error}")))
}

fn wrapping_spec(name: &str) -> Result<KeySpec, KmsError> {
    if name == "SM2" {
        let message = "WrappingKeySpec SM2 is not supported";
        return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
    }
    let spec = WRAPPING_SPECS.into_iter().find(|spec| spec.name() == name);
    spec.ok_or_else(|| KmsError::validation(format!("{name} is not a WrappingKeySpec")))
}

fn answer(entry: &Entry, mounts: Vec<CutReport>) -> ImportResponse {
    let symmetric = entry.record.spec == KeySpec::SymmetricDefault;
    ImportResponse {
        key_id: entry.arn.clone(),
        key_material_id: if symmetric { entry.fingerprint(1) } else { String::new() },
        key_state: entry.record.state,
        mounts,
    }
}
