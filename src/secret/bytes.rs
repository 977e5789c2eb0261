//! Secrets of any length.

use std::fmt;

use zeroize::Zeroizing;

use super::{KEY_LEN, Key};

/// Secret bytes of any length, kept in locked memory: the arena's slots hold them piece by piece.
/// May be used from any thread.
pub struct Secret {
    pieces: Box<[Key]>,
    len: usize,
}

impl Secret {
    /// Copies the bytes into locked memory. The source is the caller's to zeroize.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let piece = |part: &[u8]| {
            let born = Key::fill(|slot| {
                slot[..part.len()].copy_from_slice(part);
                slot[part.len()..].fill(0);
                Ok::<_, std::convert::Infallible>(())
            });
            match born {
                Ok(key) => key,
            }
        };
        Self { pieces: bytes.chunks(KEY_LEN).map(piece).collect(), len: bytes.len() }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in one piece, for whoever parses or uses them, until that is dropped.
    pub fn expose(&self) -> Zeroizing<Vec<u8>> {
        // Reserved in full, so that growing leaves no copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.pieces.len() * KEY_LEN));
        self.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece.expose()));
        bytes.truncate(self.len);
        bytes
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret(.. {} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_comes_back() {
        for len in [0, 1, KEY_LEN - 1, KEY_LEN, KEY_LEN + 1, 2_400] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let secret = Secret::copy_of(&bytes);
            assert_eq!(*secret.expose(), bytes);
            assert_eq!(secret.len(), len);
        }
        assert_eq!(format!("{:?}", Secret::copy_of(b"hush")), "Secret(.. 4 bytes)");
    }
}
