//! The encryption context: what a caller says a ciphertext is for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Pairs of text that are authenticated with a ciphertext and not stored in it. Whoever decrypts
/// must give the same pairs, in any order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EncryptionContext(BTreeMap<String, String>);

/// The context of requests that bring none.
pub(super) static NO_CONTEXT: EncryptionContext = EncryptionContext(BTreeMap::new());

impl EncryptionContext {
    /// A context without pairs.
    pub fn new() -> Self {
        Self::default()
    }

    /// This context and one more pair; a pair of the same key is replaced.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// The value under `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The pairs in order of their keys (by bytes).
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The canonical bytes: the number of pairs, then each key and value behind its length, in
    /// order of the keys; numbers are 64-bit little-endian. Two contexts have the same bytes only
    /// if they are equal.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.canonical_len());
        self.append_to(&mut out);
        out
    }

    /// Length in bytes of [`EncryptionContext::canonical`].
    pub fn canonical_len(&self) -> usize {
        8 + self.pairs().map(|(key, value)| 16 + key.len() + value.len()).sum::<usize>()
    }

    /// Appends the canonical bytes to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, value: usize| out.extend((value as u64).to_le_bytes());
        number(out, self.0.len());
        for (key, value) in self.pairs() {
            for text in [key, value] {
                number(out, text.len());
                out.extend(text.as_bytes());
            }
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for EncryptionContext {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Pairs = BTreeMap<String, String>;

    proptest! {
        #[test]
        fn canonical_bytes_are_equal_only_for_equal_contexts(a: Pairs, b: Pairs) {
            let equal = a == b;
            let (a, b): (EncryptionContext, EncryptionContext) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(a.canonical() == b.canonical(), equal);
            prop_assert_eq!(a.canonical().len(), a.canonical_len());
        }

        #[test]
        fn the_order_of_the_pairs_does_not_matter(pairs: Pairs) {
            let forward: EncryptionContext = pairs.clone().into_iter().collect();
            let backward: EncryptionContext = pairs.into_iter().rev().collect();
            prop_assert_eq!(forward.canonical(), backward.canonical());
        }
    }

    #[test]
    fn text_cannot_move_between_key_and_value() {
        let a = EncryptionContext::new().with("ab", "c");
        let b = EncryptionContext::new().with("a", "bc");
        assert_ne!(a.canonical(), b.canonical());
    }
}
