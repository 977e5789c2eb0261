//! Key states, and what each of them refuses.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{ErrorKind, KmsError};
use super::named::named;

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

named! {
    /// The operations of the key service.
    #[allow(missing_docs)] // Each is the AWS KMS operation of its name; those from CreateAccessKey on are of our own.
    Operation, "operation" {
        CreateKey = "CreateKey",
        DescribeKey = "DescribeKey",
        ListKeys = "ListKeys",
        EnableKey = "EnableKey",
        DisableKey = "DisableKey",
        ScheduleKeyDeletion = "ScheduleKeyDeletion",
        CancelKeyDeletion = "CancelKeyDeletion",
        RotateKeyOnDemand = "RotateKeyOnDemand",
        ListKeyRotations = "ListKeyRotations",
        CreateAlias = "CreateAlias",
        UpdateAlias = "UpdateAlias",
        DeleteAlias = "DeleteAlias",
        ListAliases = "ListAliases",
        GenerateDataKey = "GenerateDataKey",
        GenerateDataKeyWithoutPlaintext = "GenerateDataKeyWithoutPlaintext",
        Encrypt = "Encrypt",
        Decrypt = "Decrypt",
        ReEncrypt = "ReEncrypt",
        GenerateRandom = "GenerateRandom",
        EnableKeyRotation = "EnableKeyRotation",
        DisableKeyRotation = "DisableKeyRotation",
        GetKeyRotationStatus = "GetKeyRotationStatus",
        GetKeyLastUsage = "GetKeyLastUsage",
        UpdateKeyDescription = "UpdateKeyDescription",
        TagResource = "TagResource",
        UntagResource = "UntagResource",
        ListResourceTags = "ListResourceTags",
        PutKeyPolicy = "PutKeyPolicy",
        GetKeyPolicy = "GetKeyPolicy",
        ListKeyPolicies = "ListKeyPolicies",
        CreateGrant = "CreateGrant",
        ListGrants = "ListGrants",
        ListRetirableGrants = "ListRetirableGrants",
        RetireGrant = "RetireGrant",
        RevokeGrant = "RevokeGrant",
        GetParametersForImport = "GetParametersForImport",
        ImportKeyMaterial = "ImportKeyMaterial",
        DeleteImportedKeyMaterial = "DeleteImportedKeyMaterial",
        Sign = "Sign",
        Verify = "Verify",
        GetPublicKey = "GetPublicKey",
        GenerateMac = "GenerateMac",
        VerifyMac = "VerifyMac",
        GenerateDataKeyPair = "GenerateDataKeyPair",
        GenerateDataKeyPairWithoutPlaintext = "GenerateDataKeyPairWithoutPlaintext",
        CreateCustomKeyStore = "CreateCustomKeyStore",
        ConnectCustomKeyStore = "ConnectCustomKeyStore",
        DescribeCustomKeyStores = "DescribeCustomKeyStores",
        UpdateCustomKeyStore = "UpdateCustomKeyStore",
        DisconnectCustomKeyStore = "DisconnectCustomKeyStore",
        DeleteCustomKeyStore = "DeleteCustomKeyStore",
        CreateAccessKey = "CreateAccessKey",
        ListAccessKeys = "ListAccessKeys",
        UpdateAccessKey = "UpdateAccessKey",
        DeleteAccessKey = "DeleteAccessKey",
        NoteVolume = "NoteVolume",
        GetKeyImpact = "GetKeyImpact",
        RetireKeyVersion = "RetireKeyVersion",
        AuthorizeOpen = "AuthorizeOpen",
        GetDeletionReceipt = "GetDeletionReceipt",
        ListDeletionReceipts = "ListDeletionReceipts",
    }
}

impl Operation {
    /// Whether the operation changes nothing that a caller could see, as CloudTrail's `readOnly`
    /// means it.
    pub fn is_read_only(self) -> bool {
        use Operation as Op;
        self.is_cryptographic()
            || matches!(
                self,
                Op::DescribeKey
                    | Op::ListKeys
                    | Op::ListKeyRotations
                    | Op::ListAliases
                    | Op::GenerateRandom
                    | Op::GetKeyRotationStatus
                    | Op::GetKeyLastUsage
                    | Op::ListResourceTags
                    | Op::GetKeyPolicy
                    | Op::ListKeyPolicies
                    | Op::ListGrants
                    | Op::ListRetirableGrants
                    | Op::GetParametersForImport
                    | Op::DescribeCustomKeyStores
                    | Op::ListAccessKeys
                    | Op::GetKeyImpact
                    | Op::GetDeletionReceipt
                    | Op::ListDeletionReceipts
            )
    }

    /// Whether the operation is durable in the store before it is answered. GetParametersForImport
    /// changes no key, but the store remembers the token that it gives out.
    pub fn writes_store(self) -> bool {
        self == Self::GetParametersForImport || !self.is_read_only()
    }

    /// Whether the operation uses key material, or decides on such a use. Such operations change
    /// nothing in the store.
    pub fn is_cryptographic(self) -> bool {
        matches!(
            self,
            Self::GenerateDataKey
                | Self::GenerateDataKeyWithoutPlaintext
                | Self::Encrypt
                | Self::Decrypt
                | Self::ReEncrypt
                | Self::Sign
                | Self::Verify
                | Self::GetPublicKey
                | Self::GenerateMac
                | Self::VerifyMac
                | Self::GenerateDataKeyPair
                | Self::GenerateDataKeyPairWithoutPlaintext
                | Self::AuthorizeOpen
        )
    }

    /// Whether the operation cannot be done while the key store is locked: it uses key material, decides
    /// on such a use, or writes to the store.
    pub fn needs_unlocked_store(self) -> bool {
        self.is_cryptographic() || self.writes_store() || self == Self::GenerateRandom
    }

    /// Whether the operation changes a key's rotation.
    fn is_rotation(self) -> bool {
        matches!(self, Self::EnableKeyRotation | Self::DisableKeyRotation | Self::RotateKeyOnDemand)
    }

    /// Whether the operation is about imported material.
    fn is_import(self) -> bool {
        matches!(
            self,
            Self::GetParametersForImport | Self::ImportKeyMaterial | Self::DeleteImportedKeyMaterial
        )
    }

    /// Whether a key in `state` allows this operation. For UpdateAlias, `state` is that of the
    /// key that the alias is to name.
    ///
    /// # Errors
    /// The exception that AWS documents for the pair.
    pub fn allowed_in(self, state: KeyState) -> Result<(), ErrorKind> {
        use KeyState::{Disabled, Enabled, PendingDeletion, PendingImport, Unavailable};
        use Operation as Op;
        let refused = match (self, state) {
            (Op::CancelKeyDeletion, PendingDeletion) => return Ok(()),
            (Op::CancelKeyDeletion, _) => ErrorKind::InvalidState,
            (_, Enabled) => return Ok(()),
            (op, Disabled) if op.is_cryptographic() => ErrorKind::Disabled,
            (op, _) if op.is_cryptographic() => ErrorKind::InvalidState,
            (Op::EnableKey | Op::DisableKey, PendingImport | PendingDeletion) => ErrorKind::InvalidState,
            (Op::CreateGrant, Disabled) => ErrorKind::Disabled,
            (Op::CreateGrant, PendingImport | PendingDeletion) => ErrorKind::InvalidState,
            (op, Disabled) if op.is_rotation() => ErrorKind::Disabled,
            (op, PendingDeletion) if op.is_rotation() => ErrorKind::InvalidState,
            (op, PendingImport | Unavailable) if op.is_rotation() => ErrorKind::UnsupportedOperation,
            (op, PendingDeletion) if op.is_import() => ErrorKind::InvalidState,
            (op, Unavailable) if op.is_import() => ErrorKind::UnsupportedOperation,
            (
                Op::ScheduleKeyDeletion
                | Op::RetireKeyVersion
                | Op::CreateAlias
                | Op::UpdateAlias
                | Op::TagResource
                | Op::UntagResource
                | Op::UpdateKeyDescription,
                PendingDeletion,
            ) => ErrorKind::InvalidState,
            _ => return Ok(()),
        };
        Err(refused)
    }
}

/// The refusal of [`Operation::allowed_in`] in words.
///
/// # Errors
/// As there.
pub fn check(operation: Operation, arn: &str, state: KeyState) -> Result<(), KmsError> {
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
