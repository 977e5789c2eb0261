//! A recovery key as a person writes it down and types it in: four lines of letters and digits,
//! each with a checksum of its own, so that a typing error is found and its line named.
//!
//! A line is 8 bytes of the key and the first 2 bytes of a SHA-256 over a label, the line's number
//! and these, in base 32 (RFC 4648: no 0, 1, 8 or 9) and groups of four.

use data_encoding::BASE32_NOPAD;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::kdf::sha256;
use crate::secret::{KEY_LEN, Key, Passphrase};

const LABEL: &[u8] = b"kmsfs recovery key line v1\0";
const LINES: usize = 4;
const LINE_BYTES: usize = KEY_LEN / LINES;
const CHECK_BYTES: usize = 2;
/// Characters in a line, without the dashes.
const LINE_CHARS: usize = (LINE_BYTES + CHECK_BYTES) * 8 / 5;
const GROUP: usize = 4;

/// Why a typed recovery key is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARecoveryKey {
    /// Too few or too many characters.
    #[error("a recovery key has 64 letters and digits, these are {0}: type all four lines")]
    Length(usize),
    /// A line's checksum is wrong.
    #[error("there is a typing error in line {0} of the recovery key: compare it with the paper")]
    Line(usize),
}

/// A fresh recovery key, as it is used and as it is written down.
///
/// # Errors
/// When the operating system's random number generator fails.
pub fn new_recovery_key() -> Result<(Passphrase, Zeroizing<String>), getrandom::Error> {
    let key = Key::random()?;
    let text = in_words(key.expose());
    Ok((Passphrase::new(key.expose().to_vec()), text))
}

/// The key that a person typed. Spaces, dashes, line breaks and case do not count, and digits that
/// are never printed are taken for the letters they look like.
///
/// # Errors
/// [`NotARecoveryKey`].
pub fn parse_recovery_key(text: &[u8]) -> Result<Passphrase, NotARecoveryKey> {
    let typed = text.iter().filter(|byte| !byte.is_ascii_whitespace() && **byte != b'-');
    let plain: Zeroizing<Vec<u8>> = Zeroizing::new(
        typed
            .map(|byte| match byte {
                b'0' => b'O',
                b'1' => b'I',
                b'8' => b'B',
                other => other.to_ascii_uppercase(),
            })
            .collect(),
    );
    if plain.len() != LINES * LINE_CHARS {
        return Err(NotARecoveryKey::Length(plain.len()));
    }
    let mut key = Vec::with_capacity(KEY_LEN);
    for (line, number) in plain.chunks(LINE_CHARS).zip(1..) {
        let decoded = BASE32_NOPAD.decode(line).map(Zeroizing::new);
        let checked = decoded.ok().filter(|bytes| bytes[LINE_BYTES..] == check(number, &bytes[..LINE_BYTES]));
        match checked {
            Some(bytes) => key.extend(&bytes[..LINE_BYTES]),
            None => {
                key.zeroize();
                return Err(NotARecoveryKey::Line(number));
            }
        }
    }
    Ok(Passphrase::new(key))
}

fn in_words(key: &[u8; KEY_LEN]) -> Zeroizing<String> {
    // Large enough that it never grows and leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(LINES * (LINE_CHARS + LINE_CHARS / GROUP)));
    for (part, number) in key.chunks(LINE_BYTES).zip(1..) {
        let mut line = Zeroizing::new([0; LINE_BYTES + CHECK_BYTES]);
        line[..LINE_BYTES].copy_from_slice(part);
        line[LINE_BYTES..].copy_from_slice(&check(number, part));
        let encoded = Zeroizing::new(BASE32_NOPAD.encode(&*line));
        for (index, character) in encoded.chars().enumerate() {
            if index > 0 && index % GROUP == 0 {
                text.push('-');
            }
            text.push(character);
        }
        if number < LINES {
            text.push('\n');
        }
    }
    text
}

fn check(number: usize, part: &[u8]) -> [u8; CHECK_BYTES] {
    let [first, second, ..] = sha256(&[LABEL, &[number as u8], part]);
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_however_it_is_typed() {
        let (key, text) = new_recovery_key().unwrap();
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.len() == 19), "{}", *text);
        assert_eq!(parse_recovery_key(text.as_bytes()).unwrap(), key);
        let typed = text.to_lowercase().replace('-', " ").replace('\n', "\r\n\t").replace('o', "0");
        assert_eq!(parse_recovery_key(typed.replace('b', "8").as_bytes()).unwrap(), key);
    }

    #[test]
    fn a_wrong_letter_is_found_and_its_line_named() {
        let (_, text) = new_recovery_key().unwrap();
        for (line, start) in (1..=4).zip((0..).step_by(20)) {
            for at in (start..start + 19).filter(|at| text.as_bytes()[*at] != b'-') {
                let mut typed = text.as_bytes().to_vec();
                typed[at] = if typed[at] == b'Q' { b'R' } else { b'Q' };
                let parsed = parse_recovery_key(&typed);
                // One wrong letter in 65536 passes the checksum of its line.
                assert!(parsed == Err(NotARecoveryKey::Line(line)) || parsed.is_ok(), "{at}");
            }
        }
    }

    #[test]
    fn lines_in_another_order_are_found() {
        let (_, text) = new_recovery_key().unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.swap(1, 2);
        assert_eq!(parse_recovery_key(lines.join("\n").as_bytes()), Err(NotARecoveryKey::Line(2)));
        assert_eq!(parse_recovery_key(b"ABCD"), Err(NotARecoveryKey::Length(4)));
    }
}
