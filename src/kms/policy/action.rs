//! Actions: the operations of the API, under the names that policies use.

use std::fmt;
use std::str::FromStr;

use super::pattern::Pattern;

/// Every action. ReEncrypt is two: from a key, and to a key.
const NAMES: [&str; 57] = [
    "CancelKeyDeletion",
    "ConnectCustomKeyStore",
    "CreateAlias",
    "CreateCustomKeyStore",
    "CreateGrant",
    "CreateKey",
    "Decapsulate",
    "Decrypt",
    "DeleteAlias",
    "DeleteCustomKeyStore",
    "DeleteImportedKeyMaterial",
    "DeriveSharedSecret",
    "DescribeCustomKeyStores",
    "DescribeKey",
    "DisableKey",
    "DisableKeyRotation",
    "DisconnectCustomKeyStore",
    "EnableKey",
    "EnableKeyRotation",
    "Encapsulate",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GenerateRandom",
    "GetKeyLastUsage",
    "GetKeyPolicy",
    "GetKeyRotationStatus",
    "GetParametersForImport",
    "GetPublicKey",
    "ImportKeyMaterial",
    "ListAliases",
    "ListGrants",
    "ListKeyPolicies",
    "ListKeyRotations",
    "ListKeys",
    "ListResourceTags",
    "ListRetirableGrants",
    "PutKeyPolicy",
    "ReEncryptFrom",
    "ReEncryptTo",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "Sign",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateCustomKeyStore",
    "UpdateKeyDescription",
    "UpdatePrimaryRegion",
    "Verify",
    "VerifyMac",
];

const SERVICE: &str = "kms:";

/// One action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action(u8);

/// Not the name of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an action of the key service")]
pub struct NotAnAction;

impl Action {
    /// Every action, in order of their names.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..NAMES.len() as u8).map(Self)
    }

    /// The action of exactly this name, without `kms:`. Quick.
    pub fn exact(name: &str) -> Option<Self> {
        NAMES.binary_search(&name).ok().map(|at| Self(at as u8))
    }

    /// Whether requests bring an encryption context, which grants can constrain.
    pub fn has_context(self) -> bool {
        matches!(
            self.name(),
            "Decrypt"
                | "Encrypt"
                | "GenerateDataKey"
                | "GenerateDataKeyPair"
                | "GenerateDataKeyPairWithoutPlaintext"
                | "GenerateDataKeyWithoutPlaintext"
                | "ReEncryptFrom"
                | "ReEncryptTo"
        )
    }

    /// The name, without `kms:`.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

impl FromStr for Action {
    type Err = NotAnAction;

    /// With or without `kms:`, in any case of letters.
    fn from_str(text: &str) -> Result<Self, NotAnAction> {
        let name = strip_service(text).unwrap_or(text);
        Self::all().find(|action| action.name().eq_ignore_ascii_case(name)).ok_or(NotAnAction)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SERVICE}{}", self.name())
    }
}

/// A set of actions: one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActionSet(u128);

impl ActionSet {
    /// Adds what `pattern` names: `*`, or `kms:` and a name with wildcards. A name that no action
    /// has adds nothing, as in AWS: it may be one of a later release.
    pub(super) fn add(&mut self, pattern: &str) -> Result<(), String> {
        let name = match pattern {
            "*" => "*",
            _ => strip_service(pattern)
                .ok_or_else(|| format!("{pattern:?} is not an action of kms, such as \"kms:Decrypt\""))?,
        };
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '*' || c == '?';
        if name.is_empty() || !name.chars().all(is_of_name) {
            return Err(format!("{pattern:?} is not the form of an action"));
        }
        let pattern = Pattern::parse(&name.to_ascii_lowercase(), true, false)?;
        for action in Action::all() {
            if pattern.matches(&action.name().to_ascii_lowercase(), &()) {
                self.0 |= 1 << action.0;
            }
        }
        Ok(())
    }

    /// Adds one.
    pub fn insert(&mut self, action: Action) {
        self.0 |= 1 << action.0;
    }

    /// Whether it has `action`.
    pub fn contains(self, action: Action) -> bool {
        self.0 >> action.0 & 1 == 1
    }

    /// Whether it has all of `others`.
    pub fn includes(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    /// The actions in order of their names.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::all().filter(move |action| self.contains(*action))
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn strip_service(text: &str) -> Option<&str> {
    let (service, name) = (text.get(..SERVICE.len())?, text.get(SERVICE.len()..)?);
    service.eq_ignore_ascii_case(SERVICE).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(patterns: &[&str]) -> Vec<&'static str> {
        let mut set = ActionSet::default();
        for pattern in patterns {
            set.add(pattern).unwrap();
        }
        Action::all().filter(|action| set.contains(*action)).map(Action::name).collect()
    }

    #[test]
    fn names_are_in_order_and_fit_into_the_set() {
        assert!(NAMES.is_sorted());
        assert!(NAMES.len() <= 128);
        for action in Action::all() {
            assert_eq!(action.to_string().to_uppercase().parse(), Ok(action));
        }
    }

    #[test]
    fn patterns_name_what_they_match_in_any_case() {
        assert_eq!(set(&["kms:Decrypt"]), ["Decrypt"]);
        assert_eq!(
            set(&["KMS:re*"]),
            ["ReEncryptFrom", "ReEncryptTo", "ReplicateKey", "RetireGrant", "RevokeGrant"].map(|n| n)
        );
        assert_eq!(set(&["kms:?ign", "kms:verify"]), ["Sign", "Verify"]);
        assert_eq!(set(&["*"]).len(), NAMES.len());
        assert_eq!(set(&["kms:*"]).len(), NAMES.len());
        assert_eq!(set(&["kms:NoSuchThing"]), [""; 0]);
    }

    #[test]
    fn other_services_and_malformed_names_are_refused() {
        for text in ["", "kms", "kms:", "s3:Get*", "k*:Decrypt", "Decrypt", "kms:De crypt", "kms:a:b", "**"] {
            assert!(ActionSet::default().add(text).is_err(), "{text}");
        }
    }
}
