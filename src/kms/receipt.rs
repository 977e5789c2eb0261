//! Receipts: what a store says, signed, of a key that it has deleted.
//!
//! A receipt's file is one line of JSON, `{"Receipt":{...},"Signature":"<base64>"}`, in one spelling:
//! members in the order of their names, no white space, as RFC 8785 has it. The signature is Ed25519
//! over the bytes of the inner object. The key is derived from the store's root key and signs nothing
//! else; its public half is in the receipt, and whoever wants to know whose it is compares that with
//! what the store shows.

use data_encoding::{BASE64, HEXLOWER};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::KmsError;
use super::material::seed;
use crate::secret::Key;

/// What a receipt says it is.
pub(super) const FORMAT: &str = "kmsfs deletion receipt v1";
/// Most volumes that a receipt lists.
pub(super) const MAX_VOLUMES: usize = 500;
/// Longest receipt that is read, in bytes: as long as a record of the store may be.
pub const MAX_RECEIPT: usize = 1 << 20;

/// DER of an Ed25519 public key before the key (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// What a store says of a key that it has deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Receipt {
    /// Which layout this is.
    pub format: String,
    /// Version of the program that deleted the key.
    pub program: String,
    /// The store's id.
    pub store_id: String,
    /// What its signatures are verified with: 32 bytes in base64.
    pub public_key: String,
    /// The key's ARN.
    pub key_arn: String,
    /// Its description, as all that follows at the time when it was deleted.
    pub description: String,
    /// Its aliases, in order.
    pub aliases: Vec<String>,
    /// Its spec.
    pub key_spec: String,
    /// Its use.
    pub key_usage: String,
    /// Where its material came from.
    pub origin: String,
    /// When it was created.
    pub created: Timestamp,
    /// The versions of its material, oldest first.
    pub versions: Vec<DeletedVersion>,
    /// Who had it deleted; unknown for a key that an older release scheduled.
    pub scheduled: Option<Scheduled>,
    /// The deletion.
    pub destroyed: Destroyed,
    /// The scrub after it; absent until then, and never from a receipt that is signed.
    pub scrubbed: Option<Scrubbed>,
    /// Where the material may be all the same, as far as the store knew when it was scrubbed.
    pub copies: Copies,
}

/// A version of a deleted key's material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeletedVersion {
    /// Its number, from 1.
    pub key_version: u32,
    /// A commitment to the material, in hexadecimal.
    pub key_material_id: String,
    /// When it was made or first imported.
    pub created: Timestamp,
    /// Why: `CREATION`, `ON_DEMAND`, `AUTOMATIC` or `IMPORT`.
    pub cause: String,
    /// Whether the store had it until the deletion. If not it was retired, had expired or been deleted.
    pub present: bool,
}

/// The request that a key be deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Scheduled {
    /// When it was made.
    pub at: Timestamp,
    /// ARN of whoever made it.
    pub by: String,
    /// Days that were to pass.
    pub pending_window_in_days: u32,
    /// What depended on the key then.
    pub loss: Loss,
}

/// The end of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Destroyed {
    /// When its material was removed from the store and from memory.
    pub at: Timestamp,
    /// When that was due.
    pub due: Option<Timestamp>,
    /// Id of the event in the audit log.
    pub event_id: String,
    /// What depended on the key then, and cannot be read any more.
    pub loss: Loss,
}

/// The end of the last bytes of a key in the store's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Scrubbed {
    /// When the file that had held the material was overwritten.
    pub at: Timestamp,
    /// Number of the audit log's last line at that time. The deletion's is at it or before.
    pub audit_sequence: u64,
    /// SHA-256 of that line, in hexadecimal.
    pub audit_digest: String,
}

/// Files that are lost with a key, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Loss {
    /// Whether the numbers are those of every known volume, all of them certain.
    pub certain: bool,
    /// Files that the key wraps.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Volumes that have a part in that, or may have.
    pub volumes: Vec<VolumeLoss>,
    /// Volumes that are not listed, for there are too many.
    pub more_volumes: u64,
}

/// The same in one volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeLoss {
    /// The volume's id; empty for a mount that does not say which it has.
    pub volume_id: String,
    /// Whether the numbers are certain.
    pub certain: bool,
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// Copies of the store that it knows of. Others it cannot know: see the audit log for `BackUpStore`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Copies {
    /// The backup that was kept. It follows, by being written anew.
    pub kept_backup: Option<String>,
    /// Stores that a restored one took the place of, beside the store's file.
    pub stores_put_aside: Vec<String>,
}

/// A receipt and its signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignedReceipt {
    /// What is signed.
    pub receipt: Receipt,
    /// Ed25519, in base64.
    pub signature: String,
}

/// Why something is not a receipt that a store signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAReceipt {
    /// Not of a receipt's form, or not in its one spelling.
    #[error("it is not a deletion receipt as a key store writes it")]
    Form,
    /// The signature is of something else, or by another key than the receipt says.
    #[error("its signature is wrong: it was changed, or is no receipt of a key store")]
    Signature,
    /// It is a receipt of another store than the one that was asked for.
    #[error("it was signed by another key store than the one whose public key was given")]
    Foreign,
}

/// What a store's receipts are verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptKey([u8; seed::PUBLIC_LEN]);

impl ReceiptKey {
    /// The public half of the key of a seed.
    pub(super) fn of_seed(seed: &Key) -> Result<Self, KmsError> {
        seed::public_half(seed).map(Self)
    }

    /// Of [`ReceiptKey::to_base64`] or [`ReceiptKey::to_pem`]; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let Some(pem) = text.strip_prefix(PEM_BEGIN) else {
            return Some(Self(BASE64.decode(text.as_bytes()).ok()?.try_into().ok()?));
        };
        let der = BASE64.decode(pem.strip_suffix(PEM_END)?.trim().as_bytes()).ok()?;
        Some(Self(der.strip_prefix(&SPKI)?.try_into().ok()?))
    }

    /// The key's bytes in base64.
    pub fn to_base64(self) -> String {
        BASE64.encode(&self.0)
    }

    /// The key as OpenSSL reads it.
    pub fn to_pem(self) -> String {
        let der = [SPKI.as_slice(), &self.0].concat();
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64.encode(&der))
    }
}

impl Receipt {
    /// Signs the receipt, which is then final.
    pub(super) fn sign(self, seed: &Key) -> Result<SignedReceipt, KmsError> {
        let signature = seed::sign(seed, canonical(&self)?.as_bytes())?;
        Ok(SignedReceipt { receipt: self, signature: BASE64.encode(&signature) })
    }
}

impl SignedReceipt {
    /// The receipt's file, without a newline.
    ///
    /// # Errors
    /// Internal, where memory is short.
    pub fn to_text(&self) -> Result<String, KmsError> {
        canonical(self)
    }

    /// Reads and verifies a receipt's file, whose last newline may be missing: with the public key in
    /// it, which must be `key` if one is given.
    ///
    /// # Errors
    /// [`NotAReceipt`].
    pub fn verify(text: &[u8], key: Option<ReceiptKey>) -> Result<Self, NotAReceipt> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let signed = Some(text).filter(|text| text.len() <= MAX_RECEIPT);
        let signed: Self = signed
            .and_then(|text| serde_json::from_slice(text).ok())
            .filter(|signed: &Self| signed.receipt.format == FORMAT)
            // Unknown members, too, make for another spelling.
            .filter(|signed: &Self| signed.to_text().is_ok_and(|own| own.as_bytes() == text))
            .ok_or(NotAReceipt::Form)?;
        let own = ReceiptKey::parse(&signed.receipt.public_key).ok_or(NotAReceipt::Form)?;
        let signature = BASE64.decode(signed.signature.as_bytes()).map_err(|_| NotAReceipt::Form)?;
        let message = canonical(&signed.receipt).map_err(|_| NotAReceipt::Form)?;
        if !seed::verifies(&own.0, message.as_bytes(), &signature) {
            return Err(NotAReceipt::Signature);
        }
        if key.is_some_and(|key| key != own) {
            return Err(NotAReceipt::Foreign);
        }
        Ok(signed)
    }
}

/// JSON in one spelling: members in the order of their names, no white space. All numbers are whole
/// and below 2^53 or never compared by others.
pub(super) fn canonical(value: &impl Serialize) -> Result<String, KmsError> {
    let failed = |error: serde_json::Error| {
        KmsError::new(super::error::ErrorKind::Internal, format!("a receipt cannot be written: {error}"))
    };
    let mut value = serde_json::to_value(value).map_err(failed)?;
    sort(&mut value);
    serde_json::to_string(&value).map_err(failed)
}

/// Sorts members, whichever order the library keeps them in.
fn sort(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.sort_keys();
            members.values_mut().for_each(sort);
        }
        Value::Array(values) => values.iter_mut().for_each(sort),
        _ => {}
    }
}

/// A fingerprint as receipts have it.
pub(super) fn hex(digest: &[u8]) -> String {
    HEXLOWER.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/data/deletion-receipt.json");

    fn seed() -> Key {
        Key::take_from(&mut [7; 32])
    }

    fn receipt() -> Receipt {
        let at = |second| Timestamp::from_second(second).unwrap();
        let loss = Loss {
            certain: false,
            files: 12,
            bytes: 3400,
            volumes: vec![VolumeLoss {
                volume_id: "6f0c5a0e-0000-4000-8000-000000000001".to_owned(),
                certain: false,
                files: 12,
                bytes: 3400,
            }],
            more_volumes: 0,
        };
        Receipt {
            format: FORMAT.to_owned(),
            program: "0.1.0".to_owned(),
            store_id: "0123".to_owned(),
            public_key: ReceiptKey::of_seed(&seed()).unwrap().to_base64(),
            key_arn: "arn:aws:kms:local:000000000000:key/6f0c5a0e-0000-4000-8000-000000000002".to_owned(),
            description: "Fotos aus Köln \"alt\"\n".to_owned(),
            aliases: vec!["alias/photos".to_owned()],
            key_spec: "SYMMETRIC_DEFAULT".to_owned(),
            key_usage: "ENCRYPT_DECRYPT".to_owned(),
            origin: "AWS_KMS".to_owned(),
            created: at(1_700_000_000),
            versions: vec![DeletedVersion {
                key_version: 1,
                key_material_id: hex(&[0xab; 32]),
                created: at(1_700_000_000),
                cause: "CREATION".to_owned(),
                present: true,
            }],
            scheduled: Some(Scheduled {
                at: at(1_700_000_100),
                by: "arn:aws:iam::000000000000:root".to_owned(),
                pending_window_in_days: 7,
                loss: loss.clone(),
            }),
            destroyed: Destroyed {
                at: at(1_700_604_900),
                due: Some(at(1_700_604_900)),
                event_id: "6f0c5a0e-0000-4000-8000-000000000003".to_owned(),
                loss,
            },
            scrubbed: Some(Scrubbed {
                at: at(1_700_604_901),
                audit_sequence: 42,
                audit_digest: hex(&[1; 32]),
            }),
            copies: Copies { kept_backup: Some("/mnt/nas/keys".to_owned()), stores_put_aside: Vec::new() },
        }
    }

    #[test]
    fn a_receipt_has_the_bytes_that_it_always_had() {
        let text = receipt().sign(&seed()).unwrap().to_text().unwrap();
        assert_eq!(
            text,
            GOLDEN.trim_end(),
            "the form of receipts has changed: old ones must verify for ever"
        );
    }

    #[test]
    fn a_receipt_verifies_with_its_own_key_and_with_no_other() {
        let key = ReceiptKey::of_seed(&seed()).unwrap();
        let other = ReceiptKey::of_seed(&Key::take_from(&mut [8; 32])).unwrap();
        let signed = receipt().sign(&seed()).unwrap();
        for key in [None, Some(key)] {
            assert_eq!(SignedReceipt::verify(GOLDEN.as_bytes(), key).unwrap(), signed);
        }
        assert_eq!(SignedReceipt::verify(GOLDEN.as_bytes(), Some(other)), Err(NotAReceipt::Foreign));
        // Signed by another than it names.
        let forged = receipt().sign(&Key::take_from(&mut [8; 32])).unwrap().to_text().unwrap();
        assert_eq!(SignedReceipt::verify(forged.as_bytes(), None), Err(NotAReceipt::Signature));
    }

    #[test]
    fn no_changed_missing_or_added_byte_verifies() {
        let genuine = GOLDEN.trim_end().as_bytes();
        for at in 0..genuine.len() {
            let mut changed = genuine.to_vec();
            for bit in 0..8 {
                changed[at] = genuine[at] ^ (1 << bit);
                assert!(SignedReceipt::verify(&changed, None).is_err(), "bit {bit} of byte {at}");
            }
            let mut cut = genuine.to_vec();
            cut.remove(at);
            assert!(SignedReceipt::verify(&cut, None).is_err(), "without byte {at}");
            let mut longer = genuine.to_vec();
            longer.insert(at, b' ');
            assert!(SignedReceipt::verify(&longer, None).is_err(), "a blank at {at}");
        }
        let with_more = GOLDEN.replacen("{\"Receipt\":{", "{\"More\":1,\"Receipt\":{", 1);
        assert!(SignedReceipt::verify(with_more.as_bytes(), None).is_err());
    }

    #[test]
    fn a_public_key_is_read_in_both_of_its_spellings() {
        let key = ReceiptKey::of_seed(&seed()).unwrap();
        assert_eq!(ReceiptKey::parse(&key.to_pem()), Some(key));
        assert_eq!(ReceiptKey::parse(&format!("{}\n", key.to_base64())), Some(key));
        assert_eq!(ReceiptKey::parse("AAAA"), None);
        assert_eq!(ReceiptKey::parse(PEM_BEGIN), None);
    }
}
