//! One version of a key's material at hand: parsed once, and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;

use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::material::Parsed;
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::kms::state::Operation;
use crate::kms::store::Material;

/// Material in memory. Shared by all entries that a key has had since it was made or loaded.
pub(super) struct Held {
    material: Material,
    parsed: OnceLock<Option<Parsed>>,
    counts: Arc<Counts>,
}

/// How a version was used: no secret, and it outlives the material while the store is locked.
pub(super) struct Counts {
    /// Blobs made with it: never fewer than there are, but for what a crash lost.
    wraps: AtomicU64,
    /// As many as the store knows of.
    reserved: AtomicU64,
    /// How many there were when it was made or loaded.
    initial: u64,
    /// The last successful use: milliseconds since 1970, then the operation in the low 8 bits, so
    /// that the later of two uses is the larger number. 0 before the first.
    last_use: AtomicU64,
}

const OPERATION_BITS: u32 = 8;

impl Held {
    /// Material with which up to `wraps` blobs were made.
    pub(super) fn new(material: Material, wraps: u64) -> Self {
        let counts = Counts {
            wraps: AtomicU64::new(wraps),
            reserved: AtomicU64::new(wraps),
            initial: wraps,
            last_use: AtomicU64::new(0),
        };
        Self::counted(material, Arc::new(counts))
    }

    /// Material that is at hand again, and how it was used before.
    pub(super) fn counted(material: Material, counts: Arc<Counts>) -> Self {
        Self { material, parsed: OnceLock::new(), counts }
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// As it is stored.
    pub(super) fn material(&self) -> &Material {
        &self.material
    }

    /// Ready for use. The first call parses it, which takes up to milliseconds.
    ///
    /// # Errors
    /// Internal when stored material is not of its spec.
    pub(super) fn parsed(&self, spec: KeySpec, usage: KeyUsage) -> Result<&Parsed, KmsError> {
        let parse = || match &self.material {
            Material::Key(key) => Parsed::new(spec, usage, key.expose()).ok(),
            Material::Secret(secret) => Parsed::new(spec, usage, &secret.expose()).ok(),
        };
        let parsed = self.parsed.get_or_init(parse).as_ref();
        parsed
            .ok_or_else(|| KmsError::new(ErrorKind::Internal, "stored key material is not of its key's spec"))
    }

    pub(super) fn wraps(&self) -> u64 {
        self.counts.wraps.load(Ordering::Relaxed)
    }

    /// Counts one more; whether it is the first that is not reserved.
    pub(super) fn count_wrap(&self) -> bool {
        self.counts.wraps.fetch_add(1, Ordering::Relaxed) == self.counts.reserved.load(Ordering::Relaxed)
    }

    /// Whether anything was wrapped since it was made or loaded.
    pub(super) fn has_wrapped(&self) -> bool {
        self.wraps() > self.counts.initial
    }

    /// The store knows of so many.
    pub(super) fn reserve(&self, wraps: u64) {
        self.counts.reserved.store(wraps, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn set_wraps(&self, wraps: u64) {
        self.counts.wraps.store(wraps, Ordering::Relaxed);
    }

    /// Notes a use.
    pub(super) fn used(&self, operation: Operation, at: Timestamp) {
        let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
        let use_ = (millis << OPERATION_BITS) | operation as u64;
        self.counts.last_use.fetch_max(use_, Ordering::Relaxed);
    }

    /// The last use since the material was made or loaded.
    pub(super) fn last_use(&self) -> Option<(Operation, Timestamp)> {
        let noted = self.counts.last_use.load(Ordering::Relaxed);
        let operation = Operation::ALL.get((noted & ((1 << OPERATION_BITS) - 1)) as usize)?;
        let at = Timestamp::from_millisecond(i64::try_from(noted >> OPERATION_BITS).ok()?).ok()?;
        (noted != 0).then_some((*operation, at))
    }
}
