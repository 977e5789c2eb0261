//! Condition keys: what a policy may ask about a request.

use std::fmt;
use std::str::FromStr;

/// A condition key. Names are the same in any case of letters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the key that `NAMES` gives it")]
pub enum ConditionKey {
    /// `kms:EncryptionContext:<name>`; names that differ in case alone are the same.
    EncryptionContext(String),
    /// `aws:ResourceTag/<name>`.
    ResourceTag(String),
    /// `aws:RequestTag/<name>`.
    RequestTag(String),
    EncryptionContextKeys,
    CallerAccount,
    KeySpec,
    KeyUsage,
    KeyOrigin,
    GrantOperations,
    GrantConstraintType,
    GrantIsForAwsResource,
    GranteePrincipal,
    RetiringPrincipal,
    ScheduleKeyDeletionPendingWindowInDays,
    RotationPeriodInDays,
    SigningAlgorithm,
    MacAlgorithm,
    EncryptionAlgorithm,
    MessageType,
    DataKeyPairSpec,
    WrappingAlgorithm,
    WrappingKeySpec,
    ExpirationModel,
    ValidTo,
    ReEncryptOnSameKey,
    RequestAlias,
    ResourceAliases,
    BypassPolicyLockoutSafetyCheck,
    MultiRegion,
    PrincipalArn,
    PrincipalAccount,
    Username,
    UserId,
    CurrentTime,
    EpochTime,
    SourceIp,
    SecureTransport,
    TagKeys,
    Program,
    ProgramPath,
    Path,
    Access,
    /// A key that no request of this service has.
    Other(String),
}

const ENCRYPTION_CONTEXT: &str = "kms:EncryptionContext:";
const RESOURCE_TAG: &str = "aws:ResourceTag/";
const REQUEST_TAG: &str = "aws:RequestTag/";

/// The first name of a key is the one it is shown under.
const NAMES: [(&str, ConditionKey); 41] = [
    ("kms:EncryptionContextKeys", ConditionKey::EncryptionContextKeys),
    ("kms:CallerAccount", ConditionKey::CallerAccount),
    ("kms:KeySpec", ConditionKey::KeySpec),
    ("kms:CustomerMasterKeySpec", ConditionKey::KeySpec),
    ("kms:KeyUsage", ConditionKey::KeyUsage),
    ("kms:CustomerMasterKeyUsage", ConditionKey::KeyUsage),
    ("kms:KeyOrigin", ConditionKey::KeyOrigin),
    ("kms:GrantOperations", ConditionKey::GrantOperations),
    ("kms:GrantConstraintType", ConditionKey::GrantConstraintType),
    ("kms:GrantIsForAWSResource", ConditionKey::GrantIsForAwsResource),
    ("kms:GranteePrincipal", ConditionKey::GranteePrincipal),
    ("kms:RetiringPrincipal", ConditionKey::RetiringPrincipal),
    ("kms:ScheduleKeyDeletionPendingWindowInDays", ConditionKey::ScheduleKeyDeletionPendingWindowInDays),
    ("kms:RotationPeriodInDays", ConditionKey::RotationPeriodInDays),
    ("kms:SigningAlgorithm", ConditionKey::SigningAlgorithm),
    ("kms:MacAlgorithm", ConditionKey::MacAlgorithm),
    ("kms:EncryptionAlgorithm", ConditionKey::EncryptionAlgorithm),
    ("kms:MessageType", ConditionKey::MessageType),
    ("kms:DataKeyPairSpec", ConditionKey::DataKeyPairSpec),
    ("kms:WrappingAlgorithm", ConditionKey::WrappingAlgorithm),
    ("kms:WrappingKeySpec", ConditionKey::WrappingKeySpec),
    ("kms:ExpirationModel", ConditionKey::ExpirationModel),
    ("kms:ValidTo", ConditionKey::ValidTo),
    ("kms:ReEncryptOnSameKey", ConditionKey::ReEncryptOnSameKey),
    ("kms:RequestAlias", ConditionKey::RequestAlias),
    ("kms:ResourceAliases", ConditionKey::ResourceAliases),
    ("kms:BypassPolicyLockoutSafetyCheck", ConditionKey::BypassPolicyLockoutSafetyCheck),
    ("kms:MultiRegion", ConditionKey::MultiRegion),
    ("aws:PrincipalArn", ConditionKey::PrincipalArn),
    ("aws:PrincipalAccount", ConditionKey::PrincipalAccount),
    ("aws:username", ConditionKey::Username),
    ("aws:userid", ConditionKey::UserId),
    ("aws:CurrentTime", ConditionKey::CurrentTime),
    ("aws:EpochTime", ConditionKey::EpochTime),
    ("aws:SourceIp", ConditionKey::SourceIp),
    ("aws:SecureTransport", ConditionKey::SecureTransport),
    ("aws:TagKeys", ConditionKey::TagKeys),
    ("kmsfs:Program", ConditionKey::Program),
    ("kmsfs:ProgramPath", ConditionKey::ProgramPath),
    ("kmsfs:Path", ConditionKey::Path),
    ("kmsfs:Access", ConditionKey::Access),
];

/// Not of the form `service:Name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAConditionKey;

impl FromStr for ConditionKey {
    type Err = NotAConditionKey;

    fn from_str(text: &str) -> Result<Self, NotAConditionKey> {
        let after = |prefix: &str| {
            let (head, tail) = (text.get(..prefix.len())?, text.get(prefix.len()..)?);
            (head.eq_ignore_ascii_case(prefix) && !tail.is_empty()).then(|| tail.to_owned())
        };
        if let Some(name) = after(ENCRYPTION_CONTEXT) {
            return Ok(Self::EncryptionContext(name));
        }
        if let Some(name) = after(RESOURCE_TAG) {
            return Ok(Self::ResourceTag(name));
        }
        if let Some(name) = after(REQUEST_TAG) {
            return Ok(Self::RequestTag(name));
        }
        if let Some((_, key)) = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok(key.clone());
        }
        let well_formed = text.split_once(':').is_some_and(|(service, name)| {
            !name.is_empty()
                && !service.is_empty()
                && service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
        if well_formed { Ok(Self::Other(text.to_owned())) } else { Err(NotAConditionKey) }
    }
}

impl fmt::Display for ConditionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EncryptionContext(name) => write!(f, "{ENCRYPTION_CONTEXT}{name}"),
            Self::ResourceTag(name) => write!(f, "{RESOURCE_TAG}{name}"),
            Self::RequestTag(name) => write!(f, "{REQUEST_TAG}{name}"),
            Self::Other(name) => f.write_str(name),
            known => f.write_str(NAMES.iter().find(|(_, key)| key == known).map_or("", |(name, _)| *name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_and_shown_as_aws_writes_them() {
        for (name, key) in &NAMES {
            assert_eq!(name.to_lowercase().parse::<ConditionKey>().unwrap(), *key);
            assert_eq!(key.to_string().parse::<ConditionKey>().unwrap(), *key);
        }
        let context: ConditionKey = "KMS:encryptioncontext:App:Name".parse().unwrap();
        assert_eq!(context, ConditionKey::EncryptionContext("App:Name".to_owned()));
        assert_eq!("aws:ResourceTag/a/b".parse(), Ok(ConditionKey::ResourceTag("a/b".to_owned())));
        assert_eq!("kms:ViaService".parse(), Ok(ConditionKey::Other("kms:ViaService".to_owned())));
        for text in ["", "kms", ":", "kms:", ":x", "k ms:x"] {
            assert_eq!(text.parse::<ConditionKey>(), Err(NotAConditionKey), "{text}");
        }
    }
}
