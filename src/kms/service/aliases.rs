//! Second names for keys.

use std::sync::Arc;

use std::collections::BTreeSet;
use std::ops::Bound;

use super::book::{Book, Entry, Spelling};
use super::keys::{page, page_limit, parse_marker};
use super::{Call, Caller, Service};
use crate::kms::api::{
    AliasListEntry, AliasRequest, DeleteAliasRequest, Empty, ListAliasesRequest, ListAliasesResponse,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::AliasName;
use crate::kms::state::{KeyManager, Operation};
use crate::kms::store::{AliasRecord, Change, KeyRecord, Record, RecordName};

const MAX_ALIASES_PER_KEY: usize = 50;

impl Service {
    /// CreateAlias.
    ///
    /// # Errors
    /// AlreadyExists, InvalidAliasName, NotFound, InvalidState, LimitExceeded beyond 50 for one
    /// key, UnsupportedOperation for internal keys, AccessDenied, Internal.
    pub fn create_alias(&self, caller: &Caller, request: &AliasRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::CreateAlias, request, |call| {
            let alias = own_alias(&request.alias_name)?;
            let _writing = self.writes.lock();
            let target = {
                let book = self.book.read();
                let target = self.alias_target(call, &book, &request.target_key_id)?;
                if book.aliases.contains_key(&alias) {
                    let arn = self.realm().alias_arn(&alias);
                    let message = format!("An alias with the name {arn} already exists");
                    return Err(KmsError::new(ErrorKind::AlreadyExists, message));
                }
                self.check_count(target)?;
                target.record.id
            };
            let record =
                AliasRecord { name: alias.to_string(), target, created: call.now, updated: call.now };
            self.publish_alias(alias, record)
        })
    }

    /// UpdateAlias: gives an alias to another key. Whoever does it needs the permission for both
    /// keys, and the two must be of one kind, for programs that use the alias rely on that.
    ///
    /// # Errors
    /// As [`Service::create_alias`]; NotFound when there is no such alias, Validation for a key of
    /// another kind.
    pub fn update_alias(&self, caller: &Caller, request: &AliasRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::UpdateAlias, request, |call| {
            let alias = own_alias(&request.alias_name)?;
            let _writing = self.writes.lock();
            let record = {
                let book = self.book.read();
                let old = book.aliases.get(&alias).ok_or_else(|| self.no_alias(&alias))?;
                let source = book.by_id(&old.target, self.realm())?;
                call.comes_to(source);
                self.permit(call, Some(source), call.operation.name())?;
                let target = self.alias_target(call, &book, &request.target_key_id)?;
                check_same_kind(&alias, &source.record, &target.record)?;
                if target.record.id != old.target {
                    self.check_count(target)?;
                }
                AliasRecord { target: target.record.id, updated: call.now, ..old.clone() }
            };
            self.publish_alias(alias, record)
        })
    }

    /// DeleteAlias. The key is not affected.
    ///
    /// # Errors
    /// NotFound, InvalidAliasName, AccessDenied, Internal.
    pub fn delete_alias(&self, caller: &Caller, request: &DeleteAliasRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::DeleteAlias, request, |call| {
            let alias = own_alias(&request.alias_name)?;
            let _writing = self.writes.lock();
            {
                let book = self.book.read();
                let record = book.aliases.get(&alias).ok_or_else(|| self.no_alias(&alias))?;
                self.admit(call, book.by_id(&record.target, self.realm())?)?;
            }
            self.store.commit(&[Change::Drop(RecordName::Alias(alias.as_str()))])?;
            let mut book = self.book.write();
            if let Some(old) = book.aliases.remove(&alias)
                && let Some(aliases) = self.rights.write().aliases.get_mut(&old.target)
            {
                aliases.remove(&alias);
            }
            Ok(Empty {})
        })
    }

    /// ListAliases, in order of their names.
    ///
    /// # Errors
    /// NotFound, Validation, InvalidMarker, AccessDenied.
    pub fn list_aliases(
        &self,
        caller: &Caller,
        request: &ListAliasesRequest,
    ) -> Result<ListAliasesResponse, KmsError> {
        self.run(caller, Operation::ListAliases, request, |call| {
            let limit = page_limit(request.limit, 50, 100)?;
            let after: Option<AliasName> = request.marker.as_deref().map(parse_marker).transpose()?;
            let book = self.book.read();
            let target = match &request.key_id {
                None => {
                    self.admit_general(call)?;
                    None
                }
                Some(key) => {
                    let entry = book.resolve(key, Spelling::IdOrArn, self.realm())?;
                    self.admit(call, entry)?;
                    Some(entry.record.id)
                }
            };
            let rights = self.rights.read();
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let listed: Box<dyn Iterator<Item = _>> = match target {
                None => Box::new(book.aliases.range((from, Bound::Unbounded))),
                Some(target) => {
                    let of_key = rights.aliases.get(&target).into_iter();
                    let names = of_key.flat_map(|names| names.range((from.clone(), Bound::Unbounded)));
                    Box::new(names.filter_map(|name| book.aliases.get_key_value(name)))
                }
            };
            let entries = listed.map(|(name, record)| AliasListEntry {
                alias_name: name.to_string(),
                alias_arn: self.realm().alias_arn(name).to_string(),
                target_key_id: record.target,
                creation_date: record.created,
                last_updated_date: record.updated,
            });
            let (aliases, truncated) = page(entries, limit);
            let next_marker = aliases.last().filter(|_| truncated).map(|last| last.alias_name.clone());
            Ok(ListAliasesResponse { aliases, next_marker, truncated })
        })
    }

    fn publish_alias(&self, alias: AliasName, record: AliasRecord) -> Result<Empty, KmsError> {
        self.store.commit(&[Change::Put(&Record::AliasV1(record.clone()))])?;
        let mut book = self.book.write();
        let mut rights = self.rights.write();
        rights.aliases.entry(record.target).or_default().insert(alias.clone());
        let target = record.target;
        if let Some(old) = book.aliases.insert(alias.clone(), record)
            && old.target != target
            && let Some(aliases) = rights.aliases.get_mut(&old.target)
        {
            aliases.remove(&alias);
        }
        Ok(Empty {})
    }

    fn alias_target<'b>(
        &self,
        call: &Call<'_>,
        book: &'b Book,
        key: &str,
    ) -> Result<&'b Arc<Entry>, KmsError> {
        let entry = book.resolve(key, Spelling::IdOrArn, self.realm())?;
        if entry.record.manager != KeyManager::Customer {
            let message = format!("{} is not a customer managed key and takes no alias", entry.arn);
            return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
        }
        self.admit(call, entry)?;
        Ok(entry)
    }

    fn check_count(&self, target: &Entry) -> Result<(), KmsError> {
        let held = self.rights.read().aliases.get(&target.record.id).map_or(0, BTreeSet::len);
        if held >= MAX_ALIASES_PER_KEY {
            let message = format!("{} has 50 aliases, which is the limit", target.arn);
            return Err(KmsError::new(ErrorKind::LimitExceeded, message));
        }
        Ok(())
    }

    fn no_alias(&self, alias: &AliasName) -> KmsError {
        let arn = self.realm().alias_arn(alias);
        KmsError::new(ErrorKind::NotFound, format!("Alias {arn} is not found."))
    }
}

/// Whether one key can take the other's place behind an alias.
fn check_same_kind(alias: &AliasName, old: &KeyRecord, new: &KeyRecord) -> Result<(), KmsError> {
    let kind = |record: &KeyRecord| (record.usage, record.spec.is_asymmetric());
    if kind(old) == kind(new) {
        return Ok(());
    }
    Err(KmsError::validation(format!(
        "{alias} names a {} key for {} and cannot be given to a {} key for {}",
        old.spec, old.usage, new.spec, new.usage
    )))
}

/// An alias that a caller may make, move and remove.
fn own_alias(text: &str) -> Result<AliasName, KmsError> {
    let alias: AliasName = text.parse()?;
    if alias.is_reserved() {
        let message = "aliases that begin with alias/aws/ are reserved for the service";
        return Err(KmsError::new(ErrorKind::InvalidAliasName, message));
    }
    Ok(alias)
}
