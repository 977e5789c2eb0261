//! Who may do what: the key's policy first, then the grants.
//!
//! An explicit deny of the policy ends it; what the policy allows is allowed; for what it says
//! nothing about, a grant may speak. Operations that are about no key have no policy: they are the
//! account root's, but for those that harm nobody and those that decide on the caller themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value as Json;

use super::behalf::Behalf;
use super::book::Entry;
use super::grant_book::{Grant, GrantBook};
use super::{Call, Caller, Service};
use crate::kms::context::{EncryptionContext, NO_CONTEXT};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::{AliasName, KeyId};
use crate::kms::policy::{self, Action, ConditionKey, Decision, Identity, Policy, Value, Verdict};

/// Most grant tokens of a call.
const MAX_GRANT_TOKENS: usize = 10;

/// What permissions depend on beside a key's record. A lock of its own, the innermost: changes are
/// published under the write lock of the book as well, so that no operation which saw the old
/// rights is under way once they are.
#[derive(Default)]
pub(super) struct Rights {
    pub(super) grants: GrantBook,
    /// The aliases of each key that has any.
    pub(super) aliases: BTreeMap<KeyId, BTreeSet<AliasName>>,
}

/// The policy that decides on a key.
pub(super) enum KeyPolicy {
    /// The default one, which all keys share.
    Default,
    Own(Box<Policy>),
    /// It was put by a release that knew more. Nobody is let in by what cannot be read.
    Unreadable,
}

impl KeyPolicy {
    pub(super) fn of(text: Option<&str>, arn: &str) -> Self {
        match text.map(Policy::parse) {
            None => Self::Default,
            Some(Ok(policy)) => Self::Own(Box::new(policy)),
            Some(Err(error)) => {
                tracing::error!(key = arn, %error, "a key's policy cannot be read; nobody may use the key");
                Self::Unreadable
            }
        }
    }
}

/// What is asked of a policy, and what its conditions may ask back.
pub(super) struct Asked<'a> {
    pub(super) service: &'a Service,
    pub(super) identity: &'a Identity,
    pub(super) action: Action,
    pub(super) entry: &'a Entry,
    pub(super) now: Timestamp,
    /// Absent when nobody calls but somebody wonders.
    pub(super) call: Option<&'a Call<'a>>,
    pub(super) context: &'a EncryptionContext,
    /// Keys that are to be taken as known, and as nothing else.
    pub(super) assumed: &'a [(ConditionKey, String)],
}

impl Service {
    /// Permission for `call`, in the part of it that policies call `action`.
    pub(super) fn permit(
        &self,
        call: &Call<'_>,
        entry: Option<&Entry>,
        action: &str,
    ) -> Result<(), KmsError> {
        let identity = call.identity()?;
        let action = known_action(action)?;
        let Some(entry) = entry else { return permit_general(identity, action) };
        self.check_tokens(call)?;
        let asked = self.asked(call, identity, entry, action);
        if self.by_policy(&asked)? == Spoken::Allowed {
            return Ok(());
        }
        let rights = self.rights.read();
        match rights.grants.allowing(&entry.record.id, identity, action, asked.context) {
            Some(_) => Ok(()),
            None => Err(unsaid(&asked)),
        }
    }

    /// As [`Service::permit`] for CreateGrant, which a grant allows only for what it covers.
    pub(super) fn permit_grant(
        &self,
        call: &Call<'_>,
        entry: &Entry,
        child: Option<&Grant>,
    ) -> Result<(), KmsError> {
        let identity = call.identity()?;
        self.check_tokens(call)?;
        let asked = self.asked(call, identity, entry, known_action("CreateGrant")?);
        if self.by_policy(&asked)? == Spoken::Allowed {
            return Ok(());
        }
        let rights = self.rights.read();
        match child.and_then(|child| rights.grants.covering(identity, child)) {
            Some(_) => Ok(()),
            None => Err(unsaid(&asked)),
        }
    }

    /// Whether a policy denies `call` outright, for what policies alone cannot allow.
    pub(super) fn check_no_deny(&self, call: &Call<'_>, entry: &Entry, action: &str) -> Result<(), KmsError> {
        let asked = self.asked(call, call.identity()?, entry, known_action(action)?);
        self.by_policy(&asked).map(drop)
    }

    /// What the key's policy comes to.
    pub(super) fn decide(&self, asked: &Asked<'_>) -> Decision {
        match &asked.entry.policy {
            KeyPolicy::Default => self.default_policy.decide(&asked.request()),
            KeyPolicy::Own(policy) => policy.decide(&asked.request()),
            KeyPolicy::Unreadable => Decision { verdict: Verdict::ExplicitlyDenied, statement: None },
        }
    }

    /// What the key's policy has to say, short of a refusal.
    fn by_policy(&self, asked: &Asked<'_>) -> Result<Spoken, KmsError> {
        match self.decide(asked).verdict {
            Verdict::Allowed => Ok(Spoken::Allowed),
            Verdict::ImplicitlyDenied => Ok(Spoken::Unsaid),
            Verdict::ExplicitlyDenied => {
                Err(denied(asked, "with an explicit deny in a resource-based policy"))
            }
        }
    }

    fn asked<'a>(
        &'a self,
        call: &'a Call<'a>,
        identity: &'a Identity,
        entry: &'a Entry,
        action: Action,
    ) -> Asked<'a> {
        let to = if action.name() == "ReEncryptTo" { call.facts.destination_context() } else { None };
        let context = to.or_else(|| call.facts.encryption_context()).unwrap_or(&NO_CONTEXT);
        Asked {
            service: self,
            identity,
            action,
            entry,
            now: call.now,
            call: Some(call),
            context,
            assumed: &[],
        }
    }

    /// Every grant is in force when CreateGrant answers, so tokens add nothing; but one that is
    /// none, or of a grant that is gone, is an error.
    fn check_tokens(&self, call: &Call<'_>) -> Result<(), KmsError> {
        let tokens = call.facts.grant_tokens();
        if tokens.is_empty() {
            return Ok(());
        }
        if tokens.len() > MAX_GRANT_TOKENS {
            return Err(KmsError::validation("GrantTokens must be at most 10"));
        }
        let rights = self.rights.read();
        tokens.iter().try_for_each(|token| super::grants::find_by_token(&rights.grants, token).map(drop))
    }

    /// The account's root alone may do `what`.
    ///
    /// # Errors
    /// AccessDenied.
    pub fn demand_root(&self, caller: &Caller, what: &str) -> Result<(), KmsError> {
        let identity = self.directory.identity(caller, self.clock.now())?;
        if identity.is_root() {
            return Ok(());
        }
        let message = format!(
            "User: {} is not authorized to perform: {what}; the owner of the key store alone is",
            identity.arn()
        );
        Err(KmsError::new(ErrorKind::AccessDenied, message))
    }
}

/// What a policy says of a request that it does not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Allowed,
    /// A grant may allow it.
    Unsaid,
}

/// The refusal of what neither the policy nor a grant allows.
fn unsaid(asked: &Asked<'_>) -> KmsError {
    denied(asked, &format!("because no resource-based policy allows the {} action", asked.action))
}

fn denied(asked: &Asked<'_>, why: &str) -> KmsError {
    let (user, action, key) = (asked.identity.arn(), asked.action, &asked.entry.arn);
    let message = format!("User: {user} is not authorized to perform: {action} on resource: {key} {why}");
    KmsError::new(ErrorKind::AccessDenied, message)
}

fn known_action(name: &str) -> Result<Action, KmsError> {
    Action::exact(name)
        .ok_or_else(|| KmsError::new(ErrorKind::Internal, format!("no policy knows the action {name}")))
}

/// Operations that are about no key. There are no identity policies to allow them to others.
fn permit_general(identity: &Identity, action: Action) -> Result<(), KmsError> {
    let is_for_all = matches!(action.name(), "GenerateRandom" | "ListRetirableGrants");
    if is_for_all || identity.is_root() {
        return Ok(());
    }
    let message = format!(
        "User: {} is not authorized to perform: {action} because no identity-based policy allows the {action} action",
        identity.arn()
    );
    Err(KmsError::new(ErrorKind::AccessDenied, message))
}

impl Asked<'_> {
    pub(super) fn request(&self) -> policy::Request<'_> {
        policy::Request {
            identity: self.identity,
            action: self.action,
            resource: &self.entry.arn,
            facts: self,
        }
    }

    /// A parameter of the call.
    fn parameter(&self, name: &str) -> Option<Json> {
        self.parameters()?.get_mut(name).map(Json::take)
    }

    fn parameters(&self) -> Option<Json> {
        Some(self.call?.facts.parameters())
    }

    fn is(&self, actions: &[&str]) -> bool {
        actions.contains(&self.action.name())
    }

    /// The values of a parameter that is text, a number, a truth value or a list of these.
    fn give(&self, name: &str, default: Option<Value<'_>>, found: &mut dyn FnMut(Value<'_>)) {
        match (self.parameter(name), default) {
            (Some(json), _) => give(&json, found),
            (None, Some(default)) => found(default),
            (None, None) => {}
        }
    }

    fn encryption_algorithm(&self, found: &mut dyn FnMut(Value<'_>)) {
        let name = match self.action.name() {
            "Encrypt" | "Decrypt" => "EncryptionAlgorithm",
            "ReEncryptFrom" => "SourceEncryptionAlgorithm",
            "ReEncryptTo" => "DestinationEncryptionAlgorithm",
            _ => "",
        };
        if self.action.has_context() {
            self.give(name, Some(Value::Text(crate::kms::KeySpec::SymmetricDefault.name())), found);
        }
    }

    /// Whether ReEncrypt stays with one key, once that is known.
    fn stays_on_key(&self) -> Option<bool> {
        let own = self.entry.record.id;
        match self.action.name() {
            "ReEncryptFrom" => self.call?.destination.get().map(|destination| destination == own),
            "ReEncryptTo" => self.call?.keys.borrow().first().map(|source| source.entry.record.id == own),
            _ => None,
        }
    }

    /// The alias that the call named the key by.
    fn request_alias(&self) -> Option<String> {
        let parameters = self.parameters()?;
        let names: &[&str] = match self.action.name() {
            "ReEncryptFrom" => &["SourceKeyId"],
            "ReEncryptTo" => &["DestinationKeyId"],
            _ => &["KeyId"],
        };
        let text = names.iter().find_map(|name| parameters.get(name)?.as_str())?;
        let at = text.find("alias/").filter(|at| *at == 0 || text.starts_with("arn:"))?;
        Some(text[at..].to_owned())
    }

    fn tags(&self, found: &mut dyn FnMut(&str, &str)) {
        let Some(Json::Array(tags)) = self.parameter("Tags") else { return };
        for tag in &tags {
            let text = |name: &str| tag.get(name).and_then(Json::as_str);
            if let Some(key) = text("TagKey") {
                found(key, text("TagValue").unwrap_or_default());
            }
        }
    }

    fn local_caller(&self) -> Option<&Caller> {
        Some(self.call?.caller).filter(|caller| caller.remote.is_none())
    }

    /// What a mount that can be believed says of the file that is to be opened.
    fn behalf(&self) -> Option<&Behalf> {
        self.call?.caller.behalf.as_deref().filter(|behalf| behalf.vouched)
    }
}

fn give(json: &Json, found: &mut dyn FnMut(Value<'_>)) {
    match json {
        Json::String(text) => found(Value::Text(text)),
        Json::Bool(value) => found(Value::Bool(*value)),
        Json::Number(number) => match number.as_i64() {
            Some(number) => found(Value::Number(number)),
            None => found(Value::Text(&number.to_string())),
        },
        Json::Array(list) => list.iter().for_each(|one| give(one, found)),
        Json::Object(_) | Json::Null => {}
    }
}

impl policy::Facts for Asked<'_> {
    fn values(&self, key: &ConditionKey, found: &mut dyn FnMut(Value<'_>)) {
        if self.assumed.iter().any(|(assumed, _)| assumed == key) {
            let values = self.assumed.iter().filter(|(assumed, _)| assumed == key);
            return values.for_each(|(_, value)| found(Value::Text(value)));
        }
        let record = &self.entry.record;
        let grants = ["CreateGrant", "ListGrants", "RevokeGrant"];
        let text = |value: Option<&str>, found: &mut dyn FnMut(Value<'_>)| {
            value.into_iter().for_each(|value| found(Value::Text(value)));
        };
        match key {
            ConditionKey::EncryptionContext(name) => context_values(self.context, name, found),
            ConditionKey::EncryptionContextKeys => {
                self.context.pairs().for_each(|(key, _)| found(Value::Text(key)));
            }
            ConditionKey::ResourceTag(name) => text(record.tags.get(name).map(String::as_str), found),
            ConditionKey::RequestTag(name) => self.tags(&mut |key, value| {
                if key == name {
                    found(Value::Text(value));
                }
            }),
            ConditionKey::TagKeys => {
                self.tags(&mut |key, _| found(Value::Text(key)));
                self.give("TagKeys", None, found);
            }
            ConditionKey::CallerAccount | ConditionKey::PrincipalAccount => {
                found(Value::Text(self.identity.account()));
            }
            ConditionKey::PrincipalArn => found(Value::Text(self.identity.arn())),
            ConditionKey::Username => text(self.identity.name(), found),
            ConditionKey::UserId => found(Value::Text(self.identity.id())),
            ConditionKey::CurrentTime => found(Value::Date(self.now)),
            ConditionKey::EpochTime => found(Value::Number(self.now.as_second())),
            ConditionKey::KeySpec => found(Value::Text(record.spec.name())),
            ConditionKey::KeyUsage => found(Value::Text(record.usage.name())),
            ConditionKey::KeyOrigin => found(Value::Text(record.origin.name())),
            ConditionKey::MultiRegion => found(Value::Bool(false)),
            ConditionKey::ResourceAliases => {
                // A copy: a variable among the operands may ask while this question is answered.
                let aliases = self.service.rights.read().aliases.get(&record.id).cloned();
                aliases.iter().flatten().for_each(|alias| found(Value::Text(alias.as_str())));
            }
            ConditionKey::RequestAlias => text(self.request_alias().as_deref(), found),
            ConditionKey::ReEncryptOnSameKey => {
                self.stays_on_key().into_iter().for_each(|stays| found(Value::Bool(stays)));
            }
            ConditionKey::EncryptionAlgorithm => self.encryption_algorithm(found),
            ConditionKey::GrantOperations if self.is(&["CreateGrant"]) => {
                self.give("Operations", None, found);
            }
            ConditionKey::GranteePrincipal if self.is(&grants) => self.give("GranteePrincipal", None, found),
            ConditionKey::RetiringPrincipal if self.is(&grants) => {
                self.give("RetiringPrincipal", None, found);
            }
            ConditionKey::GrantIsForAwsResource if self.is(&grants) => found(Value::Bool(false)),
            ConditionKey::GrantConstraintType if self.is(&["CreateGrant"]) => {
                if let Some(Json::Object(constraints)) = self.parameter("Constraints") {
                    let given = constraints.iter().filter(|(_, constraint)| !constraint.is_null());
                    given.for_each(|(name, _)| found(Value::Text(name)));
                }
            }
            ConditionKey::ScheduleKeyDeletionPendingWindowInDays if self.is(&["ScheduleKeyDeletion"]) => {
                self.give("PendingWindowInDays", Some(Value::Number(30)), found);
            }
            ConditionKey::RotationPeriodInDays if self.is(&["EnableKeyRotation"]) => {
                self.give("RotationPeriodInDays", None, found);
            }
            ConditionKey::BypassPolicyLockoutSafetyCheck if self.is(&["PutKeyPolicy", "CreateKey"]) => {
                self.give("BypassPolicyLockoutSafetyCheck", Some(Value::Bool(false)), found);
            }
            ConditionKey::MessageType if self.is(&["Sign", "Verify"]) => {
                self.give("MessageType", Some(Value::Text("RAW")), found);
            }
            ConditionKey::SigningAlgorithm => self.give("SigningAlgorithm", None, found),
            ConditionKey::MacAlgorithm => self.give("MacAlgorithm", None, found),
            ConditionKey::DataKeyPairSpec => self.give("KeyPairSpec", None, found),
            ConditionKey::WrappingAlgorithm => self.give("WrappingAlgorithm", None, found),
            ConditionKey::WrappingKeySpec => self.give("WrappingKeySpec", None, found),
            ConditionKey::ExpirationModel => self.give("ExpirationModel", None, found),
            ConditionKey::ValidTo => {
                let seconds = self.parameter("ValidTo").and_then(|at| at.as_f64());
                let date = seconds.and_then(|at| Timestamp::from_second(at as i64).ok());
                date.into_iter().for_each(|date| found(Value::Date(date)));
            }
            ConditionKey::SourceIp => {
                let remote = self.call.and_then(|call| call.caller.remote.as_ref());
                remote.into_iter().for_each(|remote| found(Value::Address(remote.address)));
            }
            ConditionKey::SecureTransport => {
                let remote = self.call.and_then(|call| call.caller.remote.as_ref());
                remote.into_iter().for_each(|remote| found(Value::Bool(remote.secure)));
            }
            ConditionKey::Program => text(self.local_caller().map(|caller| caller.program.as_str()), found),
            ConditionKey::ProgramPath => {
                let path = self.local_caller().and_then(program_path);
                text(path.as_deref(), found);
            }
            ConditionKey::Path => text(self.behalf().map(|behalf| behalf.path.as_str()), found),
            ConditionKey::Access => text(self.behalf().map(|behalf| behalf.access.name()), found),
            ConditionKey::Other(_)
            | ConditionKey::GrantOperations
            | ConditionKey::GranteePrincipal
            | ConditionKey::RetiringPrincipal
            | ConditionKey::GrantIsForAwsResource
            | ConditionKey::GrantConstraintType
            | ConditionKey::ScheduleKeyDeletionPendingWindowInDays
            | ConditionKey::RotationPeriodInDays
            | ConditionKey::BypassPolicyLockoutSafetyCheck
            | ConditionKey::MessageType => {}
        }
    }
}

/// The values under `name`. Policies do not tell names apart that differ in case alone, contexts
/// do; the name as the policy spells it comes first.
fn context_values(context: &EncryptionContext, name: &str, found: &mut dyn FnMut(Value<'_>)) {
    if let Some(value) = context.value(name) {
        return found(Value::Text(value));
    }
    let same = context.pairs().filter(|(key, _)| key.eq_ignore_ascii_case(name));
    same.for_each(|(_, value)| found(Value::Text(value)));
}

/// The program that a caller runs. For convenience, not for protection: whoever may run a program
/// can also have it do other things than it was written for.
fn program_path(caller: &Caller) -> Option<String> {
    if caller.behalf.as_ref().is_some_and(|behalf| !behalf.vouched) {
        // The process is one of his choice.
        return None;
    }
    let path = std::fs::read_link(format!("/proc/{}/exe", caller.pid)).ok()?;
    path.into_os_string().into_string().ok()
}

impl<'a> Call<'a> {
    pub(super) fn identity(&self) -> Result<&Identity, KmsError> {
        self.identity.as_ref().map(Arc::as_ref).map_err(Clone::clone)
    }

    /// Notes the key that a ciphertext is to move to.
    pub(super) fn goes_to(&self, key: KeyId) {
        self.destination.set(Some(key));
    }
}
