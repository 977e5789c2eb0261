//! Key policies: putting, reading.

use std::sync::Arc;

use super::book::{Entry, Spelling};
use super::keys::page_limit;
use super::permit::Asked;
use super::tags::{check_managed, checked};
use super::{Call, Caller, Service};
use crate::kms::api::{
    CreateKeyRequest, DEFAULT_POLICY_NAME, Empty, GetKeyPolicyRequest, GetKeyPolicyResponse,
    ListKeyPoliciesRequest, ListKeyPoliciesResponse, PutKeyPolicyRequest,
};
use crate::kms::context::NO_CONTEXT;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::policy::{self, Action, MAX_POLICY, Policy, Verdict};
use crate::kms::state::Operation;
use crate::kms::store::KeyRecord;

impl Service {
    /// PutKeyPolicy.
    ///
    /// # Errors
    /// NotFound, AccessDenied, UnsupportedOperation for keys that no user manages, MalformedPolicy
    /// for what is no policy or would not let the caller put another one, LimitExceeded beyond
    /// 32 KiB, Validation for another name than `default`, Internal.
    pub fn put_key_policy(&self, caller: &Caller, request: &PutKeyPolicyRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::PutKeyPolicy, request, |call| {
            let _writing = self.writes.lock();
            let old = self.book.read().resolve(&request.key_id, Spelling::IdOrArn, self.realm())?.clone();
            self.admit(call, &old)?;
            check_managed(&old, "its policy cannot be changed")?;
            if request.policy_name.as_deref().is_some_and(|name| name != DEFAULT_POLICY_NAME) {
                return Err(KmsError::validation("PolicyName must be default"));
            }
            check_document(&request.policy)?;
            let mut record = old.record.clone();
            record.policy = Some(request.policy.clone());
            if !request.bypass_policy_lockout_safety_check {
                self.check_lockout(call, &record)?;
            }
            self.publish_record(&old, record)
        })
    }

    /// GetKeyPolicy.
    ///
    /// # Errors
    /// NotFound for the key and for another policy than `default`, AccessDenied.
    pub fn get_key_policy(
        &self,
        caller: &Caller,
        request: &GetKeyPolicyRequest,
    ) -> Result<GetKeyPolicyResponse, KmsError> {
        self.run(caller, Operation::GetKeyPolicy, request, |call| {
            let entry = self.policy_of(call, &request.key_id)?;
            if request.policy_name.as_deref().is_some_and(|name| name != DEFAULT_POLICY_NAME) {
                return Err(KmsError::new(ErrorKind::NotFound, "No such policy exists"));
            }
            let policy = entry.record.policy.clone();
            let policy = policy.unwrap_or_else(|| policy::default_policy(&self.realm().account));
            Ok(GetKeyPolicyResponse { policy, policy_name: DEFAULT_POLICY_NAME.to_owned() })
        })
    }

    /// ListKeyPolicies: always `default` alone.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Validation.
    pub fn list_key_policies(
        &self,
        caller: &Caller,
        request: &ListKeyPoliciesRequest,
    ) -> Result<ListKeyPoliciesResponse, KmsError> {
        self.run(caller, Operation::ListKeyPolicies, request, |call| {
            self.policy_of(call, &request.key_id)?;
            page_limit(request.limit, 100, 1000)?;
            Ok(ListKeyPoliciesResponse {
                policy_names: vec![DEFAULT_POLICY_NAME.to_owned()],
                truncated: false,
            })
        })
    }

    /// A new key's record with the policy and the tags that were asked for.
    ///
    /// # Errors
    /// As [`Service::put_key_policy`] and [`Service::tag_resource`].
    pub(super) fn govern(
        &self,
        call: &Call<'_>,
        request: &CreateKeyRequest,
        mut record: KeyRecord,
    ) -> Result<KeyRecord, KmsError> {
        record.tags = checked(&request.tags)?;
        let Some(policy) = &request.policy else { return Ok(record) };
        check_document(policy)?;
        record.policy = Some(policy.clone());
        if !request.bypass_policy_lockout_safety_check {
            self.check_lockout(call, &record)?;
        }
        Ok(record)
    }

    /// Whether the caller could put another policy in place of this one.
    fn check_lockout(&self, call: &Call<'_>, record: &KeyRecord) -> Result<(), KmsError> {
        // Nothing here asks for the material.
        let new = &Entry::new(record.clone(), vec![None; record.versions.len()], self.realm());
        let action: Action = "PutKeyPolicy"
            .parse()
            .map_err(|_| KmsError::new(ErrorKind::Internal, "no action PutKeyPolicy"))?;
        let asked = Asked {
            service: self,
            identity: call.identity()?,
            action,
            entry: new,
            now: call.now,
            call: Some(call),
            context: &NO_CONTEXT,
            assumed: &[],
        };
        if self.decide(&asked).verdict == Verdict::Allowed {
            return Ok(());
        }
        let message = "The new key policy will not allow you to update the key policy in the future.";
        Err(KmsError::new(ErrorKind::MalformedPolicy, message))
    }

    fn policy_of(&self, call: &Call<'_>, key: &str) -> Result<Arc<Entry>, KmsError> {
        let book = self.book.read();
        let entry = book.resolve(key, Spelling::IdOrArn, self.realm())?;
        self.admit(call, entry)?;
        Ok(Arc::clone(entry))
    }
}

/// Whether `text` may be a key's policy.
pub(super) fn check_document(text: &str) -> Result<(), KmsError> {
    if text.len() > MAX_POLICY {
        return Err(KmsError::new(ErrorKind::LimitExceeded, "a key policy is at most 32 KiB long"));
    }
    let malformed = |what: &str| KmsError::new(ErrorKind::MalformedPolicy, what);
    if !text.chars().all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{ff}')) {
        return Err(malformed("a key policy has characters of Latin-1 alone"));
    }
    Policy::parse(text).map(drop).map_err(|error| malformed(&error.to_string()))
}
