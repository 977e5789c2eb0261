//! A header slot: the wrapped data key and the sealed state, under a rising sequence number.
//!
//! A page has two slots, and every write of the page fills both alike. So either can be lost
//! without harm, and an attacker who damages one does not bring back an older state. When they
//! differ, a write was torn: the valid one with the higher number counts.

use super::head::HEAD_LEN;
use super::state::STATE_LEN;
use super::{FormatError, PAGE_LEN};
use crate::codec::{Reader, Writer};
use crate::crypto::kdf::sha256;
use crate::crypto::wrap::{WRAPPED_LEN, open_into, seal_into};
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::secret::Key;

/// Bytes of a slot on disk: three 512-byte sectors.
pub const SLOT_LEN: usize = 1536;
/// Offsets of the two slots in the page.
pub const SLOT_OFFSETS: [usize; 2] = [HEAD_LEN, HEAD_LEN + SLOT_LEN];
/// Bytes for the wrapped key with its key reference.
pub const WRAPPED_AREA_LEN: usize = 704;
/// Bytes of the commitment to the data key.
pub const COMMITMENT_LEN: usize = 32;
/// Bytes of the sealed state: nonce, ciphertext, tag.
pub const SEALED_STATE_LEN: usize = NONCE_LEN + STATE_LEN + TAG_LEN;
/// Bytes of the checksum at the slot's end.
pub const SLOT_CHECKSUM_LEN: usize = 16;

/// Bytes of a slot that are readable without a key and authenticated by the sealed state.
pub const PUBLIC_LEN: usize = 8 + 4 + 4 + COMMITMENT_LEN + WRAPPED_AREA_LEN;
/// Bytes that the checksum covers.
pub const CHECKED_LEN: usize = SLOT_LEN - SLOT_CHECKSUM_LEN;
const _: () = assert!(PUBLIC_LEN + SEALED_STATE_LEN <= CHECKED_LEN);
const _: () = assert!(SLOT_OFFSETS[1] + SLOT_LEN + HEAD_LEN == PAGE_LEN);

/// Domain label of the sealed state.
pub const LABEL: &[u8] = b"kmsfs v1 slot";

/// The previous data key of a file that is being re-encrypted, sealed under the present one
/// ([`seal_previous`](super::schedule::seal_previous)).
pub type SealedKey = [u8; WRAPPED_LEN];

/// A data key as the key service gave it out, and which master key wrapped it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wrapped {
    /// ARN of the master key.
    pub key_arn: String,
    /// Version of the master key's material.
    pub key_version: u32,
    /// The `CiphertextBlob`.
    pub blob: Vec<u8>,
}

impl Wrapped {
    /// Whether a slot can hold it.
    pub fn fits(&self) -> bool {
        self.len() <= WRAPPED_AREA_LEN
    }

    /// Whether a slot can hold it and a file's previous data key.
    pub fn fits_with_previous(&self) -> bool {
        self.len() + 2 + WRAPPED_LEN <= WRAPPED_AREA_LEN
    }

    fn len(&self) -> usize {
        4 + self.key_arn.len() + self.blob.len()
    }
}

/// A slot as read, its state still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Rises with every write of the page.
    pub sequence: u64,
    /// The wrapped data key.
    pub wrapped: Wrapped,
    /// Commitment to the data key, checked before it is used.
    pub commitment: [u8; COMMITMENT_LEN],
    /// The data key before this one, of a file that is being re-encrypted.
    pub previous: Option<SealedKey>,
    public: [u8; PUBLIC_LEN],
    sealed: [u8; SEALED_STATE_LEN],
}

impl Slot {
    /// Seals a state into a slot's bytes on disk.
    ///
    /// # Errors
    /// [`FormatError::Impossible`] if `wrapped` and `previous` do not fit or there is no randomness.
    pub fn seal(
        sequence: u64,
        wrapped: &Wrapped,
        commitment: &[u8; COMMITMENT_LEN],
        previous: Option<&SealedKey>,
        state: &[u8; STATE_LEN],
        header_key: &Key,
        head: &[u8; HEAD_LEN],
    ) -> Result<[u8; SLOT_LEN], FormatError> {
        let mut out = [0; SLOT_LEN];
        let (public, rest) = out.split_at_mut(PUBLIC_LEN);
        write_public(public, sequence, wrapped, commitment, previous)?;
        seal_into(header_key, &aad(head, public), state, &mut rest[..SEALED_STATE_LEN])
            .map_err(|_| FormatError::Impossible)?;
        let checksum = sha256(&[&out[..CHECKED_LEN]]);
        out[CHECKED_LEN..].copy_from_slice(&checksum[..SLOT_CHECKSUM_LEN]);
        Ok(out)
    }

    /// Reads the public part of a slot; `None` if it is damaged.
    pub fn parse(bytes: &[u8; SLOT_LEN]) -> Option<Self> {
        if sha256(&[&bytes[..CHECKED_LEN]])[..SLOT_CHECKSUM_LEN] != bytes[CHECKED_LEN..] {
            return None;
        }
        let mut r = Reader::new(bytes);
        let sequence = r.u64().ok()?;
        let key_version = r.u32().ok()?;
        r.u32().ok()?;
        let commitment = r.array().ok()?;
        let mut area = Reader::new(r.bytes(WRAPPED_AREA_LEN).ok()?);
        let key_arn = std::str::from_utf8(area.string16().ok()?).ok()?.to_owned();
        let blob = area.string16().ok()?.to_vec();
        let previous = parse_previous(&mut area)?;
        let wrapped = Wrapped { key_arn, key_version, blob };
        let sealed = r.array().ok()?;
        let public = Reader::new(bytes).array().ok()?;
        Some(Self { sequence, wrapped, commitment, previous, public, sealed })
    }

    /// Opens the sealed state.
    ///
    /// # Errors
    /// [`FormatError::Forged`].
    pub fn open(&self, header_key: &Key, head: &[u8; HEAD_LEN]) -> Result<[u8; STATE_LEN], FormatError> {
        let mut state = [0; STATE_LEN];
        open_into(header_key, &aad(head, &self.public), &self.sealed, &mut state)?;
        Ok(state)
    }
}

fn write_public(
    out: &mut [u8],
    sequence: u64,
    wrapped: &Wrapped,
    commitment: &[u8; COMMITMENT_LEN],
    previous: Option<&SealedKey>,
) -> Result<(), FormatError> {
    if !if previous.is_some() { wrapped.fits_with_previous() } else { wrapped.fits() } {
        return Err(FormatError::Impossible);
    }
    let arn_len = u16::try_from(wrapped.key_arn.len()).map_err(|_| FormatError::Impossible)?;
    let blob_len = u16::try_from(wrapped.blob.len()).map_err(|_| FormatError::Impossible)?;
    let mut w = Writer::new(out);
    w.u64(sequence)
        .u32(wrapped.key_version)
        .u32(0)
        .bytes(commitment)
        .u16(arn_len)
        .bytes(wrapped.key_arn.as_bytes())
        .u16(blob_len)
        .bytes(&wrapped.blob);
    if let Some(previous) = previous {
        w.u16(WRAPPED_LEN as u16).bytes(previous);
    }
    Ok(())
}

/// Reads what is behind the blob: zeros, or a file's previous data key. `None` if it is neither.
#[expect(clippy::option_option, reason = "damage is not absence")]
fn parse_previous(area: &mut Reader<'_>) -> Option<Option<SealedKey>> {
    match area.u16() {
        // An area that is filled to its end.
        Err(_) | Ok(0) => Some(None),
        Ok(len) if usize::from(len) == WRAPPED_LEN => Some(Some(area.array().ok()?)),
        Ok(_) => None,
    }
}

fn aad(head: &[u8; HEAD_LEN], public: &[u8]) -> Vec<u8> {
    [LABEL, head, public].concat()
}
