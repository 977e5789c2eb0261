//! What would be decided, and why: for people who write policies.

use super::book::{Entry, Spelling};
use super::directory::Who;
use super::permit::{Asked, KeyPolicy};
use super::policies::check_document;
use super::{Caller, Service};
use crate::kms::api::{SimulateKeyPolicyRequest, SimulateKeyPolicyResponse, SimulatedStatement};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::policy::{Action, ConditionKey, Effect, Explained, Identity, Verdict, is_principal_arn};
use crate::kms::state::Operation;

impl Service {
    /// What a request of another principal would come to, and what each statement of the key's
    /// policy makes of it. For whoever may read the policy.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Validation for what is no principal, action or condition key,
    /// MalformedPolicy for a policy to try that is none.
    pub fn simulate_key_policy(
        &self,
        caller: &Caller,
        request: &SimulateKeyPolicyRequest,
    ) -> Result<SimulateKeyPolicyResponse, KmsError> {
        let identity = self.someone(&request.principal);
        self.run(caller, Operation::GetKeyPolicy, request, |call| {
            let entry = {
                let book = self.book.read();
                let entry = book.resolve(&request.key_id, Spelling::Any, self.realm())?;
                self.admit(call, entry)?;
                entry.clone()
            };
            let identity = identity?;
            let action: Action = request
                .action
                .parse()
                .map_err(|_| KmsError::validation(format!("{} is not an action of kms", request.action)))?;
            let mut assumed: Vec<(ConditionKey, String)> = Vec::new();
            for condition in &request.conditions {
                let key = condition.key.parse();
                let key = key
                    .map_err(|_| KmsError::validation(format!("{} is not a condition key", condition.key)))?;
                assumed.push((key, condition.value.clone()));
            }
            let tried = match &request.policy {
                None => None,
                Some(policy) => {
                    check_document(policy)?;
                    let mut record = entry.record.clone();
                    record.policy = Some(policy.clone());
                    Some(Entry::new(record, vec![None; entry.record.versions.len()], self.realm()))
                }
            };
            let asked = Asked {
                service: self,
                identity: &identity,
                action,
                entry: tried.as_ref().unwrap_or(&entry),
                now: call.now,
                call: None,
                context: &request.encryption_context,
                assumed: &assumed,
            };
            Ok(self.simulate(&asked))
        })
    }

    fn simulate(&self, asked: &Asked<'_>) -> SimulateKeyPolicyResponse {
        let decision = self.decide(asked);
        let explained = match &asked.entry.policy {
            KeyPolicy::Default => self.default_policy.explain(&asked.request()),
            KeyPolicy::Own(policy) => policy.explain(&asked.request()),
            KeyPolicy::Unreadable => Vec::new(),
        };
        let rights = self.rights.read();
        let grant = (decision.verdict == Verdict::ImplicitlyDenied)
            .then(|| {
                rights.grants.allowing(&asked.entry.record.id, asked.identity, asked.action, asked.context)
            })
            .flatten()
            .map(|grant| data_encoding::HEXLOWER.encode(&grant.record.id));
        let place = decision.statement.and_then(|number| explained.get(number)).map(name);
        let reason = match (decision.verdict, &place, &grant) {
            (Verdict::Allowed, Some(place), _) => format!("{place} allows it"),
            (Verdict::ExplicitlyDenied, Some(place), _) => format!("{place} denies it"),
            (_, _, Some(grant)) => format!("no statement decides; grant {grant} allows it"),
            (Verdict::ExplicitlyDenied, None, _) => "the key's policy cannot be read".to_owned(),
            _ => "neither a statement nor a grant allows it".to_owned(),
        };
        SimulateKeyPolicyResponse {
            principal: asked.identity.arn().to_owned(),
            action: asked.action.to_string(),
            resource: asked.entry.arn.clone(),
            allowed: decision.verdict == Verdict::Allowed || grant.is_some(),
            reason,
            statement: decision.statement,
            grant_id: grant,
            statements: explained.iter().map(shown).collect(),
        }
    }

    /// Whoever a person means by `text`.
    fn someone(&self, text: &str) -> Result<Identity, KmsError> {
        let account = &self.realm().account;
        let resource = match text.strip_prefix(&format!("arn:aws:iam::{account}:")) {
            Some(resource) => resource,
            None if is_principal_arn(text) => {
                let message = format!("{text} is of another account; nobody of that one can call");
                return Err(KmsError::new(ErrorKind::Validation, message));
            }
            None => text,
        };
        if resource == "root" {
            return Ok(Identity::root(account));
        }
        let name = resource.strip_prefix("user/").unwrap_or(resource);
        if !is_principal_arn(&format!("arn:aws:iam::{account}:user/{name}")) || resource.starts_with("group/")
        {
            return Err(KmsError::validation(format!("{text} is not a user; name one, or root")));
        }
        let who = name.parse().map_or_else(|_| Who::Name(name.to_owned()), Who::Uid);
        self.directory.of(who, self.clock.now()).map(|identity| (*identity).clone())
    }
}

fn name(explained: &Explained) -> String {
    match &explained.sid {
        Some(sid) => format!("statement {} ({sid:?})", explained.number),
        None => format!("statement {}", explained.number),
    }
}

fn shown(explained: &Explained) -> SimulatedStatement {
    SimulatedStatement {
        statement: explained.number,
        sid: explained.sid.clone(),
        effect: match explained.effect {
            Effect::Allow => "Allow",
            Effect::Deny => "Deny",
        }
        .to_owned(),
        applies: explained.mismatches.is_empty(),
        because: explained.mismatches.iter().map(ToString::to_string).collect(),
    }
}
