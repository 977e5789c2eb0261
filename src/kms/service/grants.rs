//! Grants: permissions that are given and taken back one by one, beside the key's policy.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use std::collections::BTreeSet;
use std::sync::Arc;

use super::book::{Entry, Spelling};
use super::crypt::check_dry_run;
use super::grant_book::{Grant, GrantBook, GrantId};
use super::keys::{page, page_limit};
use super::{Call, Caller, Service};
use crate::kms::api::{
    CreateGrantRequest, CreateGrantResponse, Empty, GrantConstraints, GrantListEntry, ListGrantsRequest,
    ListGrantsResponse, ListRetirableGrantsRequest, RetireGrantRequest, RevokeGrantRequest,
};
use crate::kms::context::EncryptionContext;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::KeyId;
use crate::kms::policy::{Action, is_principal_arn};
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::kms::state::{self, Operation};
use crate::kms::store::{Change, GrantRecord, Record, RecordName};

const MAX_GRANTS_PER_KEY: usize = 50_000;
const MAX_PRINCIPAL: usize = 256;
const MAX_NAME: usize = 256;
/// Bounds of one constraint.
const MAX_PAIRS: usize = 8;
const MAX_PAIR_TEXT: usize = 384;
/// First byte of a token: what the others are.
const TOKEN_VERSION: u8 = 1;
const TOKEN_LEN: usize = 1 + 16 + 32 + TOKEN_SALT;
/// Bytes that make each token another one, as AWS promises.
const TOKEN_SALT: usize = 8;

/// Operations that grants can permit on any key.
const OF_ALL: [&str; 3] = ["CreateGrant", "DescribeKey", "RetireGrant"];

impl Service {
    /// CreateGrant. The grant is in force when this returns. A request that is repeated, with its
    /// name, answers the grant that there is.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Disabled, InvalidState, Validation, InvalidArn, InvalidGrantToken,
    /// UnsupportedOperation for service principals, LimitExceeded beyond 50,000 for one key,
    /// DryRun, Internal.
    pub fn create_grant(
        &self,
        caller: &Caller,
        request: &CreateGrantRequest,
    ) -> Result<CreateGrantResponse, KmsError> {
        self.run(caller, Operation::CreateGrant, request, |call| {
            let _writing = self.writes.lock();
            let entry = self.book.read().resolve(&request.key_id, Spelling::IdOrArn, self.realm())?.clone();
            let wanted = wanted(request, &entry, call, &self.realm().account).map(Grant::new);
            call.comes_to(&entry);
            self.permit_grant(call, &entry, wanted.as_ref().ok())?;
            state::check(call.operation, &entry.arn, entry.state())?;
            let mut wanted = wanted?;
            {
                let rights = self.rights.read();
                if let Some(same) = rights.grants.same_as(&wanted.record) {
                    check_dry_run(request.dry_run)?;
                    return answer(call, &same.record);
                }
                if rights.grants.count(&entry.record.id) >= MAX_GRANTS_PER_KEY {
                    let message = format!("{} has 50,000 grants, which is the limit", entry.arn);
                    return Err(KmsError::new(ErrorKind::LimitExceeded, message));
                }
            }
            check_dry_run(request.dry_run)?;
            getrandom::fill(&mut wanted.record.id)?;
            self.store.commit(&[Change::Put(&Record::GrantV1(wanted.record.clone()))])?;
            let answer = answer(call, &wanted.record);
            let _published = self.book.write();
            self.rights.write().grants.insert(wanted);
            answer
        })
    }

    /// ListGrants, in order of their ids.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Validation, InvalidGrantId, InvalidMarker, UnsupportedOperation for
    /// service principals.
    pub fn list_grants(
        &self,
        caller: &Caller,
        request: &ListGrantsRequest,
    ) -> Result<ListGrantsResponse, KmsError> {
        self.run(caller, Operation::ListGrants, request, |call| {
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::IdOrArn, self.realm())?;
            self.admit(call, entry)?;
            no_service(request.grantee_service_principal.as_deref())?;
            let limit = page_limit(request.limit, 50, 100)?;
            let after =
                request.marker.as_deref().map(|text| parse_id(text).ok_or_else(no_marker)).transpose()?;
            let only = request.grant_id.as_deref().map(grant_id).transpose()?;
            let rights = self.rights.read();
            let grants = rights.grants.of_key(&entry.record.id, after).filter(|grant| {
                only.is_none_or(|only| grant.record.id == only)
                    && request
                        .grantee_principal
                        .as_ref()
                        .is_none_or(|grantee| grant.record.grantee == *grantee)
            });
            let (grants, truncated) = page(grants.map(|grant| shown(grant, &entry.arn)), limit);
            let next_marker = grants.last().filter(|_| truncated).map(|last| last.grant_id.clone());
            Ok(ListGrantsResponse { grants, next_marker, truncated })
        })
    }

    /// ListRetirableGrants: those that name a retiring principal, which is the caller or, for the
    /// account's root, anybody.
    ///
    /// # Errors
    /// AccessDenied, Validation, InvalidArn, InvalidMarker, UnsupportedOperation for service
    /// principals.
    pub fn list_retirable_grants(
        &self,
        caller: &Caller,
        request: &ListRetirableGrantsRequest,
    ) -> Result<ListGrantsResponse, KmsError> {
        self.run(caller, Operation::ListRetirableGrants, request, |call| {
            self.admit_general(call)?;
            no_service(request.retiring_service_principal.as_deref())?;
            let Some(retiring) = &request.retiring_principal else {
                return Err(KmsError::validation("RetiringPrincipal is missing"));
            };
            check_principal(retiring)?;
            let identity = call.identity()?;
            if !identity.is_root() && !identity.is_named(retiring) {
                let message = format!(
                    "User: {} is not authorized to perform: kms:ListRetirableGrants for {retiring}",
                    identity.arn()
                );
                return Err(KmsError::new(ErrorKind::AccessDenied, message));
            }
            let limit = page_limit(request.limit, 50, 100)?;
            let after = request.marker.as_deref().map(parse_place).transpose()?;
            let rights = self.rights.read();
            let grants = rights.grants.retirable_by(retiring, after).map(|grant| {
                let arn = self.realm().key_arn(&grant.record.key).to_string();
                (grant.record.key, shown(grant, &arn))
            });
            let (grants, truncated) = page(grants, limit);
            let last = grants.last().filter(|_| truncated);
            let next_marker = last.map(|(key, last)| format!("{key}:{}", last.grant_id));
            let grants = grants.into_iter().map(|(_, grant)| grant).collect();
            Ok(ListGrantsResponse { grants, next_marker, truncated })
        })
    }

    /// RetireGrant, by the retiring principal, by the account's root, or by the grantee if the
    /// grant says so. A policy can deny it, and not allow it.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Validation, InvalidGrantToken, InvalidGrantId, DryRun, Internal.
    pub fn retire_grant(&self, caller: &Caller, request: &RetireGrantRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::RetireGrant, request, |call| {
            let _writing = self.writes.lock();
            let (entry, grant) = self.to_retire(request)?;
            call.comes_to(&entry);
            self.check_no_deny(call, &entry, "RetireGrant")?;
            let identity = call.identity()?;
            let record = &grant.record;
            let retires = Action::exact("RetireGrant").is_some_and(|action| grant.actions.contains(action));
            let may = identity.is_root()
                || record.retiring.as_deref().is_some_and(|retiring| identity.is_named(retiring))
                || retires && identity.is_named(&record.grantee);
            if !may {
                let message = format!(
                    "User: {} is not authorized to perform: kms:RetireGrant on resource: {} because the grant \
                     does not name the caller to retire it",
                    identity.arn(),
                    entry.arn
                );
                return Err(KmsError::new(ErrorKind::AccessDenied, message));
            }
            check_dry_run(request.dry_run)?;
            self.drop_grant(&entry, record.id)
        })
    }

    /// RevokeGrant. Nothing that the grant alone allowed is under way when this returns.
    ///
    /// # Errors
    /// NotFound, AccessDenied, InvalidGrantId, DryRun, Internal.
    pub fn revoke_grant(&self, caller: &Caller, request: &RevokeGrantRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::RevokeGrant, request, |call| {
            let _writing = self.writes.lock();
            let entry = self.book.read().resolve(&request.key_id, Spelling::IdOrArn, self.realm())?.clone();
            self.admit(call, &entry)?;
            let id = grant_id(&request.grant_id)?;
            if self.rights.read().grants.get(&entry.record.id, &id).is_none() {
                return Err(no_grant(&request.grant_id));
            }
            check_dry_run(request.dry_run)?;
            self.drop_grant(&entry, id)
        })
    }

    /// The caller holds `writes`.
    fn drop_grant(&self, entry: &Entry, id: GrantId) -> Result<Empty, KmsError> {
        self.store.commit(&[Change::Drop(RecordName::Grant(&id))])?;
        // Whoever was let in by the grant reads the book until it is done.
        let _published = self.book.write();
        self.rights.write().grants.remove(&entry.record.id, &id);
        Ok(Empty {})
    }

    fn to_retire(&self, request: &RetireGrantRequest) -> Result<(Arc<Entry>, Arc<Grant>), KmsError> {
        let book = self.book.read();
        let rights = self.rights.read();
        match (&request.grant_token, &request.key_id, &request.grant_id) {
            (Some(token), None, None) => {
                let grant = find_by_token(&rights.grants, token)?;
                Ok((book.by_id(&grant.record.key, self.realm())?.clone(), Arc::clone(grant)))
            }
            (None, Some(key), Some(id)) => {
                let entry = book.resolve(key, Spelling::IdOrArn, self.realm())?;
                let grant =
                    rights.grants.get(&entry.record.id, &grant_id(id)?).ok_or_else(|| no_grant(id))?;
                Ok((Arc::clone(entry), Arc::clone(grant)))
            }
            _ => Err(KmsError::validation("name the grant by GrantToken, or by KeyId and GrantId")),
        }
    }
}

/// The grant that a token names.
pub(super) fn find_by_token<'g>(grants: &'g GrantBook, token: &str) -> Result<&'g Arc<Grant>, KmsError> {
    let wrong = || KmsError::new(ErrorKind::InvalidGrantToken, "not a grant token, or its grant is gone");
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| wrong())?;
    let bytes: [u8; TOKEN_LEN] = bytes.try_into().map_err(|_| wrong())?;
    let (Some(key), Some(id)) = (bytes[1..].first_chunk(), bytes[17..].first_chunk()) else {
        return Err(wrong());
    };
    let known = Some(bytes[0]).filter(|version| *version == TOKEN_VERSION);
    known.and_then(|_| grants.get(&KeyId::from_bytes(*key), id)).ok_or_else(wrong)
}

/// A token names its grant and permits nothing: whoever presents it must be who the grant means.
fn token(record: &GrantRecord) -> Result<String, KmsError> {
    let mut salt = [0; TOKEN_SALT];
    getrandom::fill(&mut salt)?;
    let bytes = [&[TOKEN_VERSION], record.key.as_bytes().as_slice(), &record.id, &salt].concat();
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

fn answer(call: &Call<'_>, record: &GrantRecord) -> Result<CreateGrantResponse, KmsError> {
    let grant_id = HEXLOWER.encode(&record.id);
    call.answers("grantId", grant_id.clone());
    Ok(CreateGrantResponse { grant_token: token(record)?, grant_id })
}

/// The grant that a request wants, still without an id.
fn wanted(
    request: &CreateGrantRequest,
    entry: &Entry,
    call: &Call<'_>,
    account: &str,
) -> Result<GrantRecord, KmsError> {
    no_service(request.grantee_service_principal.as_deref())?;
    no_service(request.retiring_service_principal.as_deref())?;
    let Some(grantee) = &request.grantee_principal else {
        return Err(KmsError::validation("GranteePrincipal is missing"));
    };
    check_principal(grantee)?;
    request.retiring_principal.as_deref().map_or(Ok(()), check_principal)?;
    if let Some(name) = &request.name {
        let is_of_name = |b: u8| b.is_ascii_alphanumeric() || b":/_-".contains(&b);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(is_of_name) {
            return Err(KmsError::validation("Name must be 1 to 256 letters, digits and : / _ -"));
        }
    }
    let constraints = request.constraints.clone().unwrap_or_default();
    if constraints.source_arn.is_some() {
        return Err(KmsError::new(
            ErrorKind::UnsupportedOperation,
            "no service calls this one: SourceArn is not supported",
        ));
    }
    let (equals, subset) = (constraints.encryption_context_equals, constraints.encryption_context_subset);
    for context in [&equals, &subset].into_iter().flatten() {
        check_constraint(context, entry)?;
    }
    let operations: BTreeSet<&String> = request.operations.iter().collect();
    if operations.is_empty() {
        return Err(KmsError::validation("Operations must name at least one operation"));
    }
    for operation in &operations {
        check_operation(operation, entry)?;
    }
    Ok(GrantRecord {
        id: [0; 32],
        key: entry.record.id,
        name: request.name.clone(),
        issuer: format!("arn:aws:iam::{account}:root"),
        grantee: grantee.clone(),
        retiring: request.retiring_principal.clone(),
        operations: operations.into_iter().cloned().collect(),
        context_equals: equals,
        context_subset: subset,
        created: call.now,
    })
}

fn check_principal(text: &str) -> Result<(), KmsError> {
    if text.len() <= MAX_PRINCIPAL && is_principal_arn(text) {
        return Ok(());
    }
    let message = format!("{text:?} is not a principal, such as arn:aws:iam::<account>:user/<name>");
    Err(KmsError::new(ErrorKind::InvalidArn, message))
}

fn check_constraint(context: &EncryptionContext, entry: &Entry) -> Result<(), KmsError> {
    if entry.record.spec != KeySpec::SymmetricDefault {
        return Err(KmsError::validation("encryption context constraints are for symmetric encryption keys"));
    }
    let text: usize = context.pairs().map(|(key, value)| key.chars().count() + value.chars().count()).sum();
    if context.is_empty() || context.pairs().count() > MAX_PAIRS || text > MAX_PAIR_TEXT {
        return Err(KmsError::validation("a constraint has 1 to 8 pairs of up to 384 characters in all"));
    }
    Ok(())
}

/// Whether a grant can permit this on a key of this use.
fn check_operation(operation: &str, entry: &Entry) -> Result<(), KmsError> {
    const SYMMETRIC: [&str; 8] = [
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncryptFrom",
        "ReEncryptTo",
    ];
    let record = &entry.record;
    let of_use: &[&str] = match record.usage {
        KeyUsage::EncryptDecrypt if record.spec == KeySpec::SymmetricDefault => &SYMMETRIC,
        KeyUsage::EncryptDecrypt => &["Decrypt", "Encrypt", "GetPublicKey", "ReEncryptFrom", "ReEncryptTo"],
        KeyUsage::SignVerify => &["GetPublicKey", "Sign", "Verify"],
        KeyUsage::GenerateVerifyMac => &["GenerateMac", "VerifyMac"],
    };
    if of_use.contains(&operation) || OF_ALL.contains(&operation) {
        return Ok(());
    }
    let message =
        format!("{operation:?} is no operation that a grant can permit on a key for {}", record.usage);
    Err(KmsError::validation(message))
}

fn shown(grant: &Grant, key_arn: &str) -> GrantListEntry {
    let record = &grant.record;
    let constraints = GrantConstraints {
        encryption_context_equals: record.context_equals.clone(),
        encryption_context_subset: record.context_subset.clone(),
        source_arn: None,
    };
    GrantListEntry {
        key_id: key_arn.to_owned(),
        grant_id: HEXLOWER.encode(&record.id),
        name: record.name.clone(),
        creation_date: record.created,
        grantee_principal: record.grantee.clone(),
        retiring_principal: record.retiring.clone(),
        issuing_account: record.issuer.clone(),
        operations: record.operations.clone(),
        constraints: Some(constraints).filter(|constraints| *constraints != GrantConstraints::default()),
    }
}

fn grant_id(text: &str) -> Result<GrantId, KmsError> {
    parse_id(text)
        .ok_or_else(|| KmsError::new(ErrorKind::InvalidGrantId, format!("{text:?} is not a grant's id")))
}

fn parse_id(text: &str) -> Option<GrantId> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn parse_place(marker: &str) -> Result<(KeyId, GrantId), KmsError> {
    let parsed = marker.split_once(':').and_then(|(key, id)| Some((key.parse().ok()?, parse_id(id)?)));
    parsed.ok_or_else(no_marker)
}

fn no_marker() -> KmsError {
    KmsError::new(ErrorKind::InvalidMarker, "not a marker of this listing")
}

fn no_grant(id: &str) -> KmsError {
    KmsError::new(ErrorKind::NotFound, format!("Grant {id} is not found."))
}

fn no_service(principal: Option<&str>) -> Result<(), KmsError> {
    match principal {
        None => Ok(()),
        Some(name) => {
            let message = format!("{name}: service principals are not supported; no service calls this one");
            Err(KmsError::new(ErrorKind::UnsupportedOperation, message))
        }
    }
}
