//! One line of the log: an event, and what ties it to the line before.
//!
//! ```text
//! {"eventVersion":...,"integrity":{"sequence":7,"previous":"<64 hex>","hmac":"<64 hex>"}}\n
//! ```
//!
//! `previous` is the SHA-256 of the line before, without its newline: anyone can follow the chain.
//! `hmac` is HMAC-SHA256 over a label and the line up to itself: only who has the store's root key
//! can make or check one. What follows the event has one spelling, so that no byte of a line is
//! outside what is authenticated.

use data_encoding::HEXLOWER;

use crate::crypto::kdf::{DIGEST_LEN, hmac, hmac_is, sha256};
use crate::secret::Key;

const LABEL: &[u8] = b"kmsfs kms audit line v1\0";
const INTEGRITY: &[u8] = b",\"integrity\":{\"sequence\":";
const PREVIOUS: &[u8] = b",\"previous\":\"";
const HMAC: &[u8] = b"\",\"hmac\":\"";
const END: &[u8] = b"\"}}";
const HEX_LEN: usize = 2 * DIGEST_LEN;

/// The end of a log: number and digest of its last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Lines are numbered from 1; 0 before the first.
    pub sequence: u64,
    /// SHA-256 of the line.
    pub digest: [u8; DIGEST_LEN],
}

impl Head {
    /// The end of a log without lines.
    pub const START: Self = Self { sequence: 0, digest: [0; DIGEST_LEN] };
    /// Length of [`Head::to_bytes`].
    pub const LEN: usize = 8 + DIGEST_LEN;

    /// As the key store keeps it.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..].copy_from_slice(&self.digest);
        bytes
    }

    /// What [`Head::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sequence, digest) = bytes.split_first_chunk()?;
        Some(Self { sequence: u64::from_le_bytes(*sequence), digest: digest.try_into().ok()? })
    }
}

/// Appends `event`, a JSON object, to `out` as the line that follows `head`; answers the new end.
pub(super) fn append(key: &Key, head: Head, event: &[u8], out: &mut Vec<u8>) -> Head {
    debug_assert!(event.first() == Some(&b'{') && event.last() == Some(&b'}') && !event.contains(&b'\n'));
    let start = out.len();
    let sequence = head.sequence + 1;
    out.extend_from_slice(&event[..event.len() - 1]);
    out.extend_from_slice(INTEGRITY);
    out.extend_from_slice(sequence.to_string().as_bytes());
    out.extend_from_slice(PREVIOUS);
    push_hex(out, &head.digest);
    let tag = hmac(key, &[LABEL, &out[start..]]);
    out.extend_from_slice(HMAC);
    push_hex(out, &tag);
    out.extend_from_slice(END);
    let digest = sha256(&[&out[start..]]);
    out.push(b'\n');
    Head { sequence, digest }
}

/// A line that has the form of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    text: &'a [u8],
    pub(super) sequence: u64,
    pub(super) previous: [u8; DIGEST_LEN],
    hmac: [u8; DIGEST_LEN],
    signed: usize,
}

impl<'a> Line<'a> {
    /// The line `text`, without its newline.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let rest = text.strip_suffix(END)?;
        let (rest, hmac) = hex_suffix(rest)?;
        let signed = rest.strip_suffix(HMAC)?;
        let (rest, previous) = hex_suffix(signed)?;
        let rest = rest.strip_suffix(PREVIOUS)?;
        let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (rest, number) = rest.split_at(rest.len() - digits);
        rest.strip_suffix(INTEGRITY)?;
        if number.first() == Some(&b'0') {
            return None;
        }
        let sequence = std::str::from_utf8(number).ok()?.parse().ok()?;
        Some(Self { text, sequence, previous, hmac, signed: signed.len() })
    }

    /// Whether the holder of `key` made it.
    pub(super) fn is_authentic(&self, key: &Key) -> bool {
        hmac_is(key, &[LABEL, &self.text[..self.signed]], &self.hmac)
    }

    /// Whether it is the line after `head`.
    pub(super) fn follows(&self, head: &Head) -> bool {
        Some(self.sequence) == head.sequence.checked_add(1) && self.previous == head.digest
    }

    /// The end of a log whose last line it is.
    pub(super) fn head(&self) -> Head {
        Head { sequence: self.sequence, digest: sha256(&[self.text]) }
    }
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8; DIGEST_LEN]) {
    let mut hex = [0; HEX_LEN];
    HEXLOWER.encode_mut(bytes, &mut hex);
    out.extend_from_slice(&hex);
}

fn hex_suffix(text: &[u8]) -> Option<(&[u8], [u8; DIGEST_LEN])> {
    let (rest, hex) = text.split_at_checked(text.len().checked_sub(HEX_LEN)?)?;
    let mut bytes = [0; DIGEST_LEN];
    HEXLOWER.decode_mut(hex, &mut bytes).ok()?;
    Some((rest, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_it_was_made_of() {
        let key = Key::random().unwrap();
        let mut out = Vec::new();
        let first = append(&key, Head::START, br#"{"a":1}"#, &mut out);
        let end = out.len();
        let second = append(&key, first, br#"{"b":2}"#, &mut out);
        let line = Line::parse(&out[end..out.len() - 1]).unwrap();
        assert!(line.is_authentic(&key) && line.follows(&first) && line.head() == second);
        assert!(!line.is_authentic(&Key::random().unwrap()));
        assert_eq!(Head::from_bytes(&second.to_bytes()), Some(second));
        assert!(serde_json::from_slice::<serde_json::Value>(&out[end..]).is_ok());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let key = Key::random().unwrap();
        let mut out = Vec::new();
        append(&key, Head { sequence: 41, digest: [7; 32] }, br#"{"a":1}"#, &mut out);
        out.pop();
        for at in 0..out.len() * 8 {
            let mut changed = out.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(Line::parse(&changed).is_none_or(|line| !line.is_authentic(&key)), "bit {at}");
        }
    }
}
