//! Names of things: key ids, store ids, ARNs, aliases, and what a caller may write for a key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::{ErrorKind, KmsError};

/// Longest text that can name a key.
const MAX_KEY_REFERENCE: usize = 2048;
/// Longest alias, with its `alias/`.
pub const MAX_ALIAS: usize = 256;
const ALIAS_PREFIX: &str = "alias/";
const RESERVED_ALIAS_PREFIX: &str = "alias/aws/";

/// A master key's id: a random (version 4) UUID, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Uuid);

impl KeyId {
    /// A fresh id.
    ///
    /// # Errors
    /// When the operating system's random number generator fails.
    pub fn random() -> Result<Self, getrandom::Error> {
        random_uuid().map(Self)
    }

    /// The id of these 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text that is not a UUID in its hyphenated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key id")]
pub struct NotAKeyId;

impl FromStr for KeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<Self, NotAKeyId> {
        // `Uuid` also reads braces, URNs and bare hexadecimal; a key id has one spelling.
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == uuid::fmt::Hyphenated::LENGTH => Ok(Self(uuid)),
            _ => Err(NotAKeyId),
        }
    }
}

/// A key store's id: random, bound into every sealed record and every blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(Uuid);

impl StoreId {
    /// A fresh id.
    ///
    /// # Errors
    /// When the operating system's random number generator fails.
    pub fn random() -> Result<Self, getrandom::Error> {
        random_uuid().map(Self)
    }

    /// The id of these 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key store as AWS names one: a region of an account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Realm {
    /// Region; `local` unless chosen.
    pub region: String,
    /// Account id, 12 digits; zeros unless chosen.
    pub account: String,
}

impl Realm {
    /// The full name of a key: `arn:aws:kms:<region>:<account>:key/<uuid>`.
    pub fn key_arn(&self, key: &KeyId) -> Arn {
        Arn { realm: self.clone(), resource: Resource::Key(*key) }
    }

    /// The full name of an alias.
    pub fn alias_arn(&self, alias: &AliasName) -> Arn {
        Arn { realm: self.clone(), resource: Resource::Alias(alias.clone()) }
    }

    /// Whether both names can stand in an ARN.
    pub fn is_valid(&self) -> bool {
        let region = &self.region;
        (1..=64).contains(&region.len())
            && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && self.account.len() == 12
            && self.account.bytes().all(|b| b.is_ascii_digit())
    }
}

impl Default for Realm {
    fn default() -> Self {
        Self { region: "local".to_owned(), account: "000000000000".to_owned() }
    }
}

/// What an ARN of this service names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `key/<uuid>`
    Key(KeyId),
    /// `alias/<name>`
    Alias(AliasName),
}

/// The full name of a key or an alias.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Arn {
    /// The store.
    pub realm: Realm,
    /// The key or alias in it.
    pub resource: Resource,
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:aws:kms:{}:{}:", self.realm.region, self.realm.account)?;
        match &self.resource {
            Resource::Key(id) => write!(f, "key/{id}"),
            Resource::Alias(alias) => f.write_str(alias.as_str()),
        }
    }
}

impl FromStr for Arn {
    type Err = KmsError;

    fn from_str(text: &str) -> Result<Self, KmsError> {
        let invalid = || KmsError::new(ErrorKind::InvalidArn, format!("Invalid arn {text}"));
        let rest = text.strip_prefix("arn:aws:kms:").ok_or_else(invalid)?;
        let mut parts = rest.splitn(3, ':');
        let mut part = || parts.next().ok_or_else(invalid);
        let realm = Realm { region: part()?.to_owned(), account: part()?.to_owned() };
        let resource = part()?;
        let resource = match resource.strip_prefix("key/") {
            Some(id) => Resource::Key(id.parse().map_err(|NotAKeyId| invalid())?),
            None => Resource::Alias(resource.parse().map_err(|_| invalid())?),
        };
        Ok(Self { realm, resource })
    }
}

/// A second name for a key: `alias/` and 1 or more of `a-z A-Z 0-9 / _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AliasName(String);

impl AliasName {
    /// The name, with its `alias/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is one of those that only the service itself gives out.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED_ALIAS_PREFIX)
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AliasName {
    type Err = KmsError;

    fn from_str(text: &str) -> Result<Self, KmsError> {
        let name = text.strip_prefix(ALIAS_PREFIX).unwrap_or_default();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-');
        if name.is_empty() || text.len() > MAX_ALIAS || !name.bytes().all(allowed) {
            return Err(KmsError::new(
                ErrorKind::InvalidAliasName,
                "an alias is \"alias/\" and 1 to 250 letters, digits, '/', '_' or '-'",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What a caller may write to name a key: its id, its ARN, an alias or an alias's ARN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRef {
    /// The store that an ARN names; `None` when only an id or alias was given.
    pub realm: Option<Realm>,
    /// The key or alias.
    pub resource: Resource,
}

impl FromStr for KeyRef {
    type Err = KmsError;

    fn from_str(text: &str) -> Result<Self, KmsError> {
        if text.is_empty() || text.len() > MAX_KEY_REFERENCE {
            return Err(KmsError::validation("KeyId must be 1 to 2048 characters long"));
        }
        if text.starts_with("arn:") {
            let arn: Arn = text.parse()?;
            return Ok(Self { realm: Some(arn.realm), resource: arn.resource });
        }
        let resource = if text.starts_with(ALIAS_PREFIX) {
            Resource::Alias(text.parse().map_err(|_| not_a_key(text))?)
        } else {
            Resource::Key(text.parse().map_err(|NotAKeyId| not_a_key(text))?)
        };
        Ok(Self { realm: None, resource })
    }
}

fn not_a_key(text: &str) -> KmsError {
    KmsError::new(ErrorKind::NotFound, format!("Invalid keyId '{text}'"))
}

fn random_uuid() -> Result<Uuid, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_key_reads_back() {
        let id = KeyId::random().unwrap();
        let realm = Realm::default();
        let arn = realm.key_arn(&id).to_string();
        assert_eq!(arn, format!("arn:aws:kms:local:000000000000:key/{id}"));
        assert_eq!(arn.parse::<Arn>().unwrap(), realm.key_arn(&id));
        let alias: AliasName = "alias/a/b_c-1".parse().unwrap();
        let alias_arn = realm.alias_arn(&alias).to_string();
        for (text, realm, resource) in [
            (id.to_string(), None, Resource::Key(id)),
            (arn, Some(realm.clone()), Resource::Key(id)),
            (alias.to_string(), None, Resource::Alias(alias.clone())),
            (alias_arn, Some(realm), Resource::Alias(alias)),
        ] {
            assert_eq!(text.parse::<KeyRef>().unwrap(), KeyRef { realm, resource }, "{text}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        let id = KeyId::random().unwrap();
        for text in [
            String::new(),
            "x".to_owned(),
            "a".repeat(MAX_KEY_REFERENCE + 1),
            format!("{{{id}}}"),
            id.to_string().replace('-', ""),
            "alias/".to_owned(),
            "alias/white space".to_owned(),
            format!("alias/{}", "a".repeat(MAX_ALIAS)),
            format!("arn:aws:s3:local:000000000000:key/{id}"),
            "arn:aws:kms:local:000000000000".to_owned(),
            "arn:aws:kms:local:000000000000:key/x".to_owned(),
        ] {
            assert!(text.parse::<KeyRef>().is_err(), "{text}");
        }
    }
}
