//! Why a proxy gave no answer that can be used.

use thiserror::Error;

/// A failed call. Holds nothing that the proxy wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum ProxyError {
    /// It found a parameter invalid.
    #[error("the proxy rejected a parameter")]
    Validation,
    /// The external key, or its key store, is not enabled.
    #[error("the external key is not enabled")]
    InvalidState,
    /// The ciphertext or what is bound to it is not what was made.
    #[error("the proxy found the ciphertext invalid")]
    InvalidCiphertext,
    /// The external key is not for this.
    #[error("the external key does not support the operation")]
    InvalidKeyUsage,
    /// It did not believe the signature.
    #[error("the proxy could not authenticate the request")]
    AuthenticationFailed,
    /// It does not allow the operation.
    #[error("the proxy denied access")]
    AccessDenied,
    /// It knows no such external key.
    #[error("the proxy found no such external key")]
    KeyNotFound,
    /// It knows no such path.
    #[error("the proxy rejected the path of its URI")]
    InvalidUriPath,
    /// It gets too many requests, or this side has too many under way.
    #[error("too many requests")]
    Throttling,
    /// It cannot do this.
    #[error("the proxy does not support the operation")]
    UnsupportedOperation,
    /// What it depends on did not answer in time.
    #[error("the proxy's key manager did not answer in time")]
    DependencyTimeout,
    /// It failed.
    #[error("the proxy failed")]
    Internal,
    /// There is no connection.
    #[error("the proxy cannot be reached")]
    Unreachable,
    /// There is no TLS connection, or not with the one that was asked for.
    #[error("no TLS connection to the proxy")]
    Tls,
    /// There is no answer in time.
    #[error("the proxy did not answer in time")]
    TimedOut,
    /// The answer is not of its form.
    #[error("the proxy's answer is not of its form")]
    Malformed,
}

impl ProxyError {
    /// What an answer's `errorName` says; [`ProxyError::Malformed`] for a name that is none.
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "ValidationException" => Self::Validation,
            "InvalidStateException" => Self::InvalidState,
            "InvalidCiphertextException" => Self::InvalidCiphertext,
            "InvalidKeyUsageException" => Self::InvalidKeyUsage,
            "AuthenticationFailedException" => Self::AuthenticationFailed,
            "AccessDeniedException" => Self::AccessDenied,
            "KeyNotFoundException" => Self::KeyNotFound,
            "InvalidUriPathException" => Self::InvalidUriPath,
            "ThrottlingException" => Self::Throttling,
            "UnsupportedOperationException" => Self::UnsupportedOperation,
            "DependencyTimeoutException" => Self::DependencyTimeout,
            "InternalException" => Self::Internal,
            _ => Self::Malformed,
        }
    }
}
