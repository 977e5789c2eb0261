//! What a policy comes to for one request, and why.

use std::fmt;

use super::Request;
use super::condition::Condition;
use super::document::{Effect, Policy, Statement};

/// Whether a policy lets a request pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A statement allows it and none denies it.
    Allowed,
    /// A statement denies it.
    ExplicitlyDenied,
    /// No statement allows it.
    ImplicitlyDenied,
}

/// What a policy comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request passes.
    pub verdict: Verdict,
    /// Number of the statement that decided, from 0; `None` if none applied.
    pub statement: Option<usize>,
}

/// The part of a statement that a request did not match.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the part of its name")]
pub enum Mismatch {
    Principal,
    Action,
    Resource,
    /// Operator and key.
    Condition(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal => f.write_str("it is about other principals"),
            Self::Action => f.write_str("it is about other actions"),
            Self::Resource => f.write_str("it is about other keys"),
            Self::Condition(condition) => write!(f, "its condition {condition} is not met"),
        }
    }
}

/// What one statement made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Its number, from 0.
    pub number: usize,
    /// Its `Sid`.
    pub sid: Option<String>,
    /// What it comes to if it applies.
    pub effect: Effect,
    /// Why it does not apply; every part that does not match, in order. Empty if it applies.
    pub mismatches: Vec<Mismatch>,
}

impl Policy {
    /// Decides. Takes no locks and, without `${variables}`, no memory.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let mut allowed_by = None;
        for (number, statement) in self.statements.iter().enumerate() {
            // The first statement that allows is the one to name.
            if statement.effect == Effect::Allow && allowed_by.is_some() || !statement.applies(request) {
                continue;
            }
            match statement.effect {
                Effect::Allow => allowed_by = Some(number),
                Effect::Deny => {
                    return Decision { verdict: Verdict::ExplicitlyDenied, statement: Some(number) };
                }
            }
        }
        let verdict = if allowed_by.is_some() { Verdict::Allowed } else { Verdict::ImplicitlyDenied };
        Decision { verdict, statement: allowed_by }
    }

    /// What every statement makes of `request`, for people.
    pub fn explain(&self, request: &Request<'_>) -> Vec<Explained> {
        let numbered = self.statements.iter().enumerate();
        let explained = numbered.map(|(number, statement)| Explained {
            number,
            sid: statement.sid.clone(),
            effect: statement.effect,
            mismatches: statement.mismatches(request),
        });
        explained.collect()
    }

    /// The `Sid` of statement `number`.
    pub fn sid(&self, number: usize) -> Option<&str> {
        self.statements.get(number)?.sid.as_deref()
    }
}

impl Statement {
    fn applies(&self, request: &Request<'_>) -> bool {
        self.is_about_action(request)
            && self.is_about_principal(request)
            && self.is_about_resource(request)
            && self.conditions.iter().all(|condition| self.is_met(condition, request))
    }

    fn mismatches(&self, request: &Request<'_>) -> Vec<Mismatch> {
        let parts = [
            (self.is_about_principal(request), Mismatch::Principal),
            (self.is_about_action(request), Mismatch::Action),
            (self.is_about_resource(request), Mismatch::Resource),
        ];
        let parts = parts.into_iter().filter(|(matches, _)| !matches).map(|(_, part)| part);
        let unmet = self.conditions.iter().filter(|condition| !self.is_met(condition, request));
        parts.chain(unmet.map(|condition| Mismatch::Condition(condition.to_string()))).collect()
    }

    fn is_about_principal(&self, request: &Request<'_>) -> bool {
        self.principals.include(request.identity) != self.other_principals
    }

    fn is_about_action(&self, request: &Request<'_>) -> bool {
        self.actions.contains(request.action) != self.other_actions
    }

    fn is_about_resource(&self, request: &Request<'_>) -> bool {
        self.resources.include(request.resource, request.facts)
    }

    fn is_met(&self, condition: &Condition, request: &Request<'_>) -> bool {
        condition.holds(request.facts, self.effect)
    }
}
