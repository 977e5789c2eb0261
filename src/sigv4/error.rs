//! Why a request is not believed.

use thiserror::Error;

/// The kinds of refusal, under AWS's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthKind {
    /// Nothing in the request says who sent it.
    Missing,
    /// What says it is not of its form.
    Incomplete,
    /// No access key of this id, or one that may not be used.
    Unrecognized,
    /// The signature is not of this request, this time, this service or this key.
    Invalid,
}

/// A request that is not believed. Says nothing that helps to forge one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {message}", kind.name())]
pub struct AuthError {
    /// Which of them.
    pub kind: AuthKind,
    /// In AWS's words.
    pub message: String,
}

impl AuthKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Incomplete, Self::Unrecognized, Self::Invalid];

    /// The exception's name, common to AWS's services.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::Incomplete => "IncompleteSignatureException",
            Self::Unrecognized => "UnrecognizedClientException",
            Self::Invalid => "InvalidSignatureException",
        }
    }
}

impl AuthError {
    /// A refusal of `kind` that says `message`.
    pub fn new(kind: AuthKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(super) fn missing() -> Self {
        Self::new(AuthKind::Missing, "Missing Authentication Token")
    }

    pub(super) fn incomplete(message: impl Into<String>) -> Self {
        Self::new(AuthKind::Incomplete, message)
    }

    /// One refusal for an unknown and for a disabled access key.
    pub fn unrecognized() -> Self {
        Self::new(AuthKind::Unrecognized, "The security token included in the request is invalid.")
    }
}
