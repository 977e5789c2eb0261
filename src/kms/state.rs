//! Key states, and what each of them refuses.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{ErrorKind, KmsError};

/// The state of a master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyState {
    /// Everything works.
    Enabled,
    /// Kept, and not used until it is enabled.
    Disabled,
    /// To be destroyed at a set time.
    PendingDeletion,
    /// Without material until it is imported.
    PendingImport,
    /// Its material is held elsewhere and cannot be reached.
    Unavailable,
}

impl KeyState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Enabled, Self::Disabled, Self::PendingDeletion, Self::PendingImport, Self::Unavailable];
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Who manages a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KeyManager {
    /// The service, on first use, behind a reserved alias.
    Aws,
    /// Whoever created it.
    #[default]
    Customer,
    /// A volume, for its own bookkeeping: not listed, cannot be disabled or deleted.
    Internal,
}

/// The operations of the key service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Each is the AWS KMS operation of its name.
pub enum Operation {
    CreateKey,
    DescribeKey,
    ListKeys,
    EnableKey,
    DisableKey,
    ScheduleKeyDeletion,
    CancelKeyDeletion,
    RotateKeyOnDemand,
    ListKeyRotations,
    CreateAlias,
    UpdateAlias,
    DeleteAlias,
    ListAliases,
    GenerateDataKey,
    GenerateDataKeyWithoutPlaintext,
    Encrypt,
    Decrypt,
    ReEncrypt,
    GenerateRandom,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 19] = [
        Self::CreateKey,
        Self::DescribeKey,
        Self::ListKeys,
        Self::EnableKey,
        Self::DisableKey,
        Self::ScheduleKeyDeletion,
        Self::CancelKeyDeletion,
        Self::RotateKeyOnDemand,
        Self::ListKeyRotations,
        Self::CreateAlias,
        Self::UpdateAlias,
        Self::DeleteAlias,
        Self::ListAliases,
        Self::GenerateDataKey,
        Self::GenerateDataKeyWithoutPlaintext,
        Self::Encrypt,
        Self::Decrypt,
        Self::ReEncrypt,
        Self::GenerateRandom,
    ];

    /// Whether the operation uses key material. Such operations change nothing in the store.
    pub fn is_cryptographic(self) -> bool {
        matches!(
            self,
            Self::GenerateDataKey
                | Self::GenerateDataKeyWithoutPlaintext
                | Self::Encrypt
                | Self::Decrypt
                | Self::ReEncrypt
        )
    }

    /// Whether a key in `state` allows this operation. For UpdateAlias, `state` is that of the
    /// key that the alias is to name.
    ///
    /// # Errors
    /// The exception that AWS documents for the pair.
    pub fn allowed_in(self, state: KeyState) -> Result<(), ErrorKind> {
        use KeyState::{Disabled, Enabled, PendingDeletion, PendingImport, Unavailable};
        let refused = match (self, state) {
            (Self::CancelKeyDeletion, PendingDeletion) => return Ok(()),
            (Self::CancelKeyDeletion, _) => ErrorKind::InvalidState,
            (_, Enabled) => return Ok(()),
            (op, Disabled) if op.is_cryptographic() => ErrorKind::Disabled,
            (op, _) if op.is_cryptographic() => ErrorKind::InvalidState,
            (Self::EnableKey | Self::DisableKey, PendingImport | PendingDeletion) => ErrorKind::InvalidState,
            (Self::RotateKeyOnDemand, Disabled) => ErrorKind::Disabled,
            (Self::RotateKeyOnDemand, PendingDeletion) => ErrorKind::InvalidState,
            (Self::RotateKeyOnDemand, PendingImport | Unavailable) => ErrorKind::UnsupportedOperation,
            (Self::ScheduleKeyDeletion | Self::CreateAlias | Self::UpdateAlias, PendingDeletion) => {
                ErrorKind::InvalidState
            }
            _ => return Ok(()),
        };
        Err(refused)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The refusal of [`Operation::allowed_in`] in words.
pub(super) fn check(operation: Operation, arn: &str, state: KeyState) -> Result<(), KmsError> {
    operation.allowed_in(state).map_err(|kind| {
        let message = match kind {
            ErrorKind::Disabled => format!("{arn} is disabled."),
            ErrorKind::UnsupportedOperation => {
                format!("{operation} is not possible for {arn}, which is {state}.")
            }
            _ => format!("{arn} is {}.", in_words(state)),
        };
        KmsError::new(kind, message).in_state(state)
    })
}

fn in_words(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "enabled",
        KeyState::Disabled => "disabled",
        KeyState::PendingDeletion => "pending deletion",
        KeyState::PendingImport => "pending import",
        KeyState::Unavailable => "unavailable",
    }
}
