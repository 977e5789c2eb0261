//! What an operation of the key service can answer instead of a result.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::state::KeyState;
use super::watch::CutReport;

/// The kinds of refusal, under the names of the AWS KMS API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such key, alias or other thing; also a key that has been deleted.
    NotFound,
    /// The key is disabled.
    Disabled,
    /// The key's state does not allow the operation.
    InvalidState,
    /// Something of this name is there already.
    AlreadyExists,
    /// Not the form of an alias, or a reserved one.
    InvalidAliasName,
    /// Not the form of an ARN.
    InvalidArn,
    /// Not a marker that a listing gave out.
    InvalidMarker,
    /// The ciphertext is damaged, or the encryption context is not the one it was made with.
    InvalidCiphertext,
    /// The ciphertext was made under another key, or by another key store.
    IncorrectKey,
    /// A parameter is missing, malformed or out of bounds.
    Validation,
    /// The request is not of its operation's shape.
    Serialization,
    /// A documented limit would be exceeded.
    LimitExceeded,
    /// The caller may not do this.
    AccessDenied,
    /// Not something that this service or this key can do.
    UnsupportedOperation,
    /// The service failed.
    Internal,
    /// Something that the service needs did not answer in time.
    DependencyTimeout,
    /// The key's material cannot be reached at the moment.
    KeyUnavailable,
    /// The dry run would have succeeded.
    DryRun,
    /// The key is not made for this.
    InvalidKeyUsage,
    /// The signature is not of this message under this key.
    InvalidSignature,
    /// The MAC is not of this message under this key.
    InvalidMac,
    /// Not a grant token, or no longer one.
    InvalidGrantToken,
    /// Not the form of a grant's id.
    InvalidGrantId,
    /// Not a key policy, or one that would lock everybody out.
    MalformedPolicy,
    /// Not a tag, or too many of them.
    Tag,
    /// Not an import token of this key.
    InvalidImportToken,
    /// The import token is no longer valid.
    ExpiredImportToken,
    /// Other material than the key had before, or of another length or kind.
    IncorrectKeyMaterial,
    /// Something else about the key is under way.
    Conflict,
    /// Mounts could not write back what they hold under the key.
    Unwritten,
    /// No custom key store of this id or name.
    CustomKeyStoreNotFound,
    /// A custom key store of this name is there already.
    CustomKeyStoreNameInUse,
    /// The custom key store's connection does not allow the operation.
    CustomKeyStoreInvalidState,
    /// The custom key store has keys.
    CustomKeyStoreHasKeys,
    /// Another key of the custom key store stands for this external key.
    XksKeyAlreadyInUse,
    /// The external key is not one that a key can stand for.
    XksKeyInvalidConfiguration,
    /// There is no such external key.
    XksKeyNotFound,
    /// The proxy did not believe the signature.
    XksProxyIncorrectCredential,
    /// The proxy does not know the path.
    XksProxyInvalidConfiguration,
    /// The proxy's answer cannot be used.
    XksProxyInvalidResponse,
    /// Another custom key store has this proxy.
    XksProxyUriInUse,
    /// The proxy does not answer.
    XksProxyUriUnreachable,
}

impl ErrorKind {
    const ALL: [Self; 42] = [
        Self::NotFound,
        Self::Disabled,
        Self::InvalidState,
        Self::AlreadyExists,
        Self::InvalidAliasName,
        Self::InvalidArn,
        Self::InvalidMarker,
        Self::InvalidCiphertext,
        Self::IncorrectKey,
        Self::Validation,
        Self::Serialization,
        Self::LimitExceeded,
        Self::AccessDenied,
        Self::UnsupportedOperation,
        Self::Internal,
        Self::DependencyTimeout,
        Self::KeyUnavailable,
        Self::DryRun,
        Self::InvalidKeyUsage,
        Self::InvalidSignature,
        Self::InvalidMac,
        Self::InvalidGrantToken,
        Self::InvalidGrantId,
        Self::MalformedPolicy,
        Self::Tag,
        Self::InvalidImportToken,
        Self::ExpiredImportToken,
        Self::IncorrectKeyMaterial,
        Self::Conflict,
        Self::CustomKeyStoreNotFound,
        Self::CustomKeyStoreNameInUse,
        Self::CustomKeyStoreInvalidState,
        Self::CustomKeyStoreHasKeys,
        Self::XksKeyAlreadyInUse,
        Self::XksKeyInvalidConfiguration,
        Self::XksKeyNotFound,
        Self::XksProxyIncorrectCredential,
        Self::XksProxyInvalidConfiguration,
        Self::XksProxyInvalidResponse,
        Self::XksProxyUriInUse,
        Self::XksProxyUriUnreachable,
        Self::Unwritten,
    ];

    /// The exception's name in the AWS KMS API.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "NotFoundException",
            Self::Disabled => "DisabledException",
            Self::InvalidState => "KMSInvalidStateException",
            Self::AlreadyExists => "AlreadyExistsException",
            Self::InvalidAliasName => "InvalidAliasNameException",
            Self::InvalidArn => "InvalidArnException",
            Self::InvalidMarker => "InvalidMarkerException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::IncorrectKey => "IncorrectKeyException",
            Self::Validation => "ValidationException",
            Self::Serialization => "SerializationException",
            Self::LimitExceeded => "LimitExceededException",
            Self::AccessDenied => "AccessDeniedException",
            Self::UnsupportedOperation => "UnsupportedOperationException",
            Self::Internal => "KMSInternalException",
            Self::DependencyTimeout => "DependencyTimeoutException",
            Self::KeyUnavailable => "KeyUnavailableException",
            Self::DryRun => "DryRunOperationException",
            Self::InvalidKeyUsage => "InvalidKeyUsageException",
            Self::InvalidSignature => "KMSInvalidSignatureException",
            Self::InvalidMac => "KMSInvalidMacException",
            Self::InvalidGrantToken => "InvalidGrantTokenException",
            Self::InvalidGrantId => "InvalidGrantIdException",
            Self::MalformedPolicy => "MalformedPolicyDocumentException",
            Self::Tag => "TagException",
            Self::InvalidImportToken => "InvalidImportTokenException",
            Self::ExpiredImportToken => "ExpiredImportTokenException",
            Self::IncorrectKeyMaterial => "IncorrectKeyMaterialException",
            Self::Conflict => "ConflictException",
            Self::CustomKeyStoreNotFound => "CustomKeyStoreNotFoundException",
            Self::CustomKeyStoreNameInUse => "CustomKeyStoreNameInUseException",
            Self::CustomKeyStoreInvalidState => "CustomKeyStoreInvalidStateException",
            Self::CustomKeyStoreHasKeys => "CustomKeyStoreHasCMKsException",
            Self::XksKeyAlreadyInUse => "XksKeyAlreadyInUseException",
            Self::XksKeyInvalidConfiguration => "XksKeyInvalidConfigurationException",
            Self::XksKeyNotFound => "XksKeyNotFoundException",
            Self::XksProxyIncorrectCredential => "XksProxyIncorrectAuthenticationCredentialException",
            Self::XksProxyInvalidConfiguration => "XksProxyInvalidConfigurationException",
            Self::XksProxyInvalidResponse => "XksProxyInvalidResponseException",
            Self::XksProxyUriInUse => "XksProxyUriInUseException",
            Self::XksProxyUriUnreachable => "XksProxyUriUnreachableException",
            Self::Unwritten => "UnwrittenDataException",
        }
    }

    /// The HTTP status that carries the exception.
    pub fn status(self) -> u16 {
        match self {
            Self::Internal | Self::KeyUnavailable => 500,
            Self::DependencyTimeout => 503,
            _ => 400,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What lies behind a failure that AWS has no name for: it decides what a person does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The key store's disk is full.
    NoSpace,
    /// The key store cannot be written.
    ReadOnly,
    /// The process that has the key store open may not do this to its files.
    Permission,
    /// The key store is damaged.
    Damaged,
    /// The backup that is to be kept could not be written.
    NotBackedUp,
    /// A backup is damaged, of another version, or lacks something.
    BadBackup,
    /// The secret opens no unlock slot.
    WrongSecret,
    /// The key store is locked.
    Locked,
    /// The call cannot be logged, so it is refused.
    Audit,
    /// Another failure of the store, which its message explains.
    Store,
}

/// A refused or failed operation. Holds names and states, never key material or plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind}: {message}")]
pub struct KmsError {
    kind: ErrorKind,
    message: String,
    state: Option<KeyState>,
    reason: Option<Reason>,
    mounts: Vec<CutReport>,
}

impl KmsError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), state: None, reason: None, mounts: Vec::new() }
    }

    /// A parameter is missing, malformed or out of bounds.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Validation, message)
    }

    /// The key store is locked. AWS has no such state; the exception is the one for a key that cannot be
    /// used as things are, which clients do not repeat by themselves.
    pub fn locked() -> Self {
        let message = "the key store is locked: unlock it with 'kmsfs unlock', then retry";
        Self::new(ErrorKind::InvalidState, message).because(Reason::Locked)
    }

    /// This error, naming the state of the key that caused it.
    #[must_use]
    pub fn in_state(mut self, state: KeyState) -> Self {
        self.state = Some(state);
        self
    }

    /// This error, naming what lies behind it.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// This error, with the mounts that caused it.
    #[must_use]
    pub fn at(mut self, mounts: Vec<CutReport>) -> Self {
        self.mounts = mounts;
        self
    }

    /// The mounts that caused it, and what they could not write.
    pub fn mounts(&self) -> &[CutReport] {
        &self.mounts
    }

    /// What lies behind it. Its message then says what to do next.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What happened, for a person.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The state of the key, when that is the reason.
    pub fn key_state(&self) -> Option<KeyState> {
        self.state
    }

    /// The HTTP status that carries the error.
    pub fn status(&self) -> u16 {
        self.kind.status()
    }

    /// What to do next, for a person.
    pub fn hint(&self) -> &'static str {
        match (self.kind, self.state) {
            (ErrorKind::Disabled, _) => "enable the key, then retry",
            (ErrorKind::InvalidState, Some(KeyState::PendingDeletion)) => {
                "cancel the deletion and enable the key, then retry"
            }
            (ErrorKind::InvalidState, Some(KeyState::PendingImport)) => {
                "import the key's material, then retry"
            }
            (ErrorKind::InvalidState, Some(KeyState::Unavailable)) => {
                "see that the key's custom key store is connected and its proxy answers, then retry"
            }
            (ErrorKind::InvalidState, _) => "look at the key's state; this operation needs another one",
            (ErrorKind::NotFound, _) => "list the keys and aliases; a deleted key does not come back",
            (ErrorKind::AlreadyExists, _) => "choose another name, or update the existing one",
            (ErrorKind::InvalidCiphertext, _) => {
                "check that the ciphertext is whole and the encryption context the one it was made with"
            }
            (ErrorKind::IncorrectKey, _) => "use the key store and key that made the ciphertext",
            (ErrorKind::LimitExceeded, _) => "stay within the documented limit",
            (ErrorKind::AccessDenied, _) => "ask the owner of the key store for permission",
            (ErrorKind::Internal, _) => "look into the log of the key store's owner, then retry",
            (ErrorKind::DependencyTimeout | ErrorKind::KeyUnavailable, _) => {
                "start or unlock the key service, then retry"
            }
            (ErrorKind::CustomKeyStoreNotFound, _) => "describe the custom key stores to see their ids",
            (ErrorKind::CustomKeyStoreInvalidState, _) => {
                "look at its connection state, then connect or disconnect it"
            }
            (ErrorKind::CustomKeyStoreHasKeys, _) => {
                "wait until its keys are deleted, or leave it disconnected"
            }
            (ErrorKind::CustomKeyStoreNameInUse, _) => "choose another name",
            (
                ErrorKind::XksProxyUriUnreachable
                | ErrorKind::XksProxyInvalidConfiguration
                | ErrorKind::XksProxyInvalidResponse
                | ErrorKind::XksProxyIncorrectCredential,
                _,
            ) => "look after the proxy, or correct its settings, then retry",
            (ErrorKind::Unwritten, _) => {
                "make space or repair the disk, then retry, or have it done without StopIfUnwritten"
            }
            (ErrorKind::DryRun, _) => "repeat without DryRun",
            _ => "correct the request",
        }
    }

    /// The error as the body of an AWS JSON 1.1 answer.
    pub fn to_wire(&self) -> Value {
        let mut body = json!({"__type": self.kind.name(), "message": self.message});
        if let Some(state) = self.state {
            body["KeyState"] = json!(state);
        }
        if let Some(reason) = self.reason {
            body["Reason"] = json!(reason);
        }
        if !self.mounts.is_empty() {
            body["Mounts"] = json!(self.mounts);
        }
        body
    }

    /// Reads what [`KmsError::to_wire`] or an AWS-compatible service answered. A body that is no
    /// error at all, or an unknown one, becomes [`ErrorKind::Internal`].
    pub fn from_wire(body: &Value) -> Self {
        let text = |member: &str| body.get(member).and_then(Value::as_str);
        // AWS services may qualify the name: "com.amazonaws.kms#NotFoundException".
        let name = text("__type").unwrap_or("an answer without a type");
        let name = name.rsplit('#').next().unwrap_or(name);
        let message = text("message").or_else(|| text("Message")).unwrap_or("no message");
        let state = body.get("KeyState").and_then(|state| serde_json::from_value(state.clone()).ok());
        let reason = body.get("Reason").and_then(|reason| serde_json::from_value(reason.clone()).ok());
        let mounts = body.get("Mounts").and_then(|mounts| serde_json::from_value(mounts.clone()).ok());
        let (kind, message) = match ErrorKind::from_name(name) {
            Some(kind) => (kind, message.to_owned()),
            None => (ErrorKind::Internal, format!("{name}: {message}")),
        };
        Self { kind, message, state, reason, mounts: mounts.unwrap_or_default() }
    }
}

impl From<getrandom::Error> for KmsError {
    fn from(error: getrandom::Error) -> Self {
        Self::new(ErrorKind::Internal, format!("no random numbers from the operating system: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        for kind in ErrorKind::ALL {
            for error in [
                KmsError::new(kind, "m").because(Reason::NoSpace),
                KmsError::new(kind, "m").in_state(KeyState::PendingDeletion),
                KmsError::new(kind, "m").at(vec![CutReport { files: 1, ..CutReport::default() }]),
            ] {
                assert_eq!(KmsError::from_wire(&error.to_wire()), error);
            }
        }
        let foreign = json!({"__type": "com.amazonaws.kms#NotFoundException", "Message": "gone"});
        assert_eq!(KmsError::from_wire(&foreign), KmsError::new(ErrorKind::NotFound, "gone"));
        assert_eq!(KmsError::from_wire(&json!([])).kind(), ErrorKind::Internal);
    }
}
