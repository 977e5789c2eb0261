//! Key policies: IAM JSON policy documents, as AWS KMS attaches them to keys.
//!
//! A document is read once, by [`Policy::parse`], into what can be decided quickly; a [`Request`]
//! says who wants to do what to which key, and [`Facts`] answers what its conditions ask for.
//! Nothing here knows the service: it is text in, decision out.
//!
//! | module | |
//! |---|---|
//! | `json` | JSON in which no member is named twice |
//! | `document` | from JSON to statements; everything that is malformed is refused here |
//! | `action`, `principal`, `pattern` | what statements are about |
//! | `key`, `operand`, `condition` | when they apply |
//! | `decision` | what they come to |
//!
//! The rules are those that AWS documents. An explicit deny wins; what no statement allows is
//! denied; a statement without `Resource` applies to no key. Four things are this service's own:
//!
//! * There are no identity policies, so naming the account (`arn:aws:iam::<account>:root` or the
//!   bare number) delegates to nobody: it means the account's root alone, the store's owner.
//! * A policy may name a group, `arn:aws:iam::<account>:group/<name>`; it means the members.
//! * Under an operator without `ForAllValues` or `ForAnyValue`, a key with several values
//!   satisfies an Allow only if every value does, and a Deny if one does.
//! * `kmsfs:Program`, `kmsfs:ProgramPath`, `kmsfs:Path` and `kmsfs:Access` are condition keys of our own.

mod action;
mod condition;
mod decision;
mod document;
mod json;
mod key;
mod operand;
mod pattern;
mod principal;

#[cfg(test)]
mod tests;

pub use action::{Action, ActionSet, NotAnAction};
pub use decision::{Decision, Explained, Mismatch, Verdict};
pub use document::{Effect, Malformed, Policy};
pub use key::ConditionKey;
pub use operand::Value;
pub use principal::{Identity, is_account, is_principal_arn};

/// Longest policy in bytes.
pub const MAX_POLICY: usize = 32 * 1024;

/// Who wants to do what to which key.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// What.
    pub action: Action,
    /// The key's ARN; for an operation on no key, `*`.
    pub resource: &'a str,
    /// What conditions may ask for.
    pub facts: &'a dyn Facts,
}

/// What is known of a request.
pub trait Facts {
    /// Calls `found` with every value of `key`; not at all when the request has no such key.
    fn values(&self, key: &ConditionKey, found: &mut dyn FnMut(Value<'_>));
}

/// Knows nothing.
impl Facts for () {
    fn values(&self, _: &ConditionKey, _: &mut dyn FnMut(Value<'_>)) {}
}

/// The policy of a key that was created without one: everything for the account's root.
pub fn default_policy(account: &str) -> String {
    // As AWS answers it, to the space.
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"#
    )
}
