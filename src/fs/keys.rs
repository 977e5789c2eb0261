//! Who may use a master key's data keys now: one gate per master key, passed by every operation.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::open_file::OpenFile;
use super::{Asker, Fs, FsError, FsResult};
use crate::format::Id;
use crate::format::schedule::FileKeys;
use crate::kms::EncryptionContext;
use crate::provider::{CacheSettings, KeyCache};
use crate::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use crate::sync::{MappedRwLockReadGuard, Mutex, RwLockReadGuard, RwLockUpgradableReadGuard};

/// On whose behalf a file's keys are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// A program's: refused as soon as the key begins to be cut off.
    Program,
    /// The kernel's, writing back what programs wrote before: accepted until the key is cut.
    WriteBack,
}

/// Something that opens and closes. Closing goes by way of draining.
#[derive(Default)]
pub(super) struct Door {
    /// 0 open; an errno: cut; its negative: draining, to be cut with it.
    state: AtomicI32,
    /// Writes that came through from the kernel's cache.
    write_backs: AtomicU64,
}

/// Whether a master key's files are accessible: its own door is open, and that of the whole store.
pub(super) struct Gate {
    own: Door,
    whole: Arc<Door>,
}

/// All gates, by the key's id. A gate stays for the life of the mount.
#[derive(Default)]
pub(super) struct Gates {
    gates: Mutex<HashMap<String, Arc<Gate>>>,
    /// Closed while the key store is locked.
    whole: Arc<Door>,
}

impl Door {
    pub(super) fn open(&self) {
        self.state.store(0, Ordering::SeqCst);
    }

    pub(super) fn drain(&self, errno: i32) {
        // What is cut stays so.
        let _ = self.state.compare_exchange(0, -errno, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(super) fn cut(&self, errno: i32) {
        self.state.store(errno, Ordering::SeqCst);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state.load(Ordering::SeqCst) > 0
    }

    pub(super) fn write_backs(&self) -> u64 {
        self.write_backs.load(Ordering::SeqCst)
    }

    fn check(&self, access: Access) -> FsResult<()> {
        match self.state.load(Ordering::SeqCst) {
            0 => Ok(()),
            draining if draining < 0 && access == Access::WriteBack => Ok(()),
            refused => Err(FsError::new(refused.abs())),
        }
    }
}

impl Gate {
    /// The key's own door.
    pub(super) fn door(&self) -> &Door {
        &self.own
    }

    /// Whether nothing comes through, whichever door it is.
    pub(super) fn is_cut(&self) -> bool {
        self.own.is_cut() || self.whole.is_cut()
    }

    /// Counts a write that arrived from the kernel's cache.
    pub(super) fn count_write_back(&self) {
        self.own.write_backs.fetch_add(1, Ordering::Relaxed);
        self.whole.write_backs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn check_program(&self) -> FsResult<()> {
        self.check(Access::Program)
    }

    fn check(&self, access: Access) -> FsResult<()> {
        // A key that is cut by itself stays so when the store is unlocked, and says why.
        self.own.check(access)?;
        self.whole.check(access)
    }
}

impl Gates {
    /// The door of the whole store.
    pub(super) fn whole(&self) -> &Door {
        &self.whole
    }

    /// The ids of the keys that are cut off by themselves.
    pub(super) fn cut(&self) -> Vec<String> {
        let gates = self.gates.lock();
        gates.iter().filter(|(_, gate)| gate.own.is_cut()).map(|(key, _)| key.clone()).collect()
    }

    /// The gate of the master key with this ARN.
    pub(super) fn of(&self, arn: &str) -> Arc<Gate> {
        self.of_key(key_of(arn))
    }

    /// The gate of the master key with this id; made if nobody asked for it before, so that a cut
    /// also stops those who are just about to use the key for the first time.
    pub(super) fn of_key(&self, key: &str) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get(key) {
            return Arc::clone(gate);
        }
        let gate = Arc::new(Gate { own: Door::default(), whole: Arc::clone(&self.whole) });
        gates.insert(key.to_owned(), Arc::clone(&gate));
        gate
    }
}

/// The key's id: what its ARN ends with.
fn key_of(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// The encryption context that a file's data key is bound to.
pub fn file_context(volume: Id, file: Id) -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:volume", volume.to_string()).with("kmsfs:file", file.to_string())
}

/// A file's keys, for one operation. Taking the keys away waits until it is dropped.
pub(super) struct KeysInUse<'a>(MappedRwLockReadGuard<'a, FileKeys>);

impl Deref for KeysInUse<'_> {
    type Target = FileKeys;

    fn deref(&self) -> &FileKeys {
        &self.0
    }
}

impl Fs {
    /// Uses data keys for so long without asking the key service again: those that are cached from
    /// when they were unwrapped on, those of open files from when the service was heard last.
    #[must_use]
    pub fn with_key_ttl(mut self, ttl: Duration) -> Self {
        self.key_ttl = ttl;
        self.cache = KeyCache::new(CacheSettings { max_age: ttl, ..CacheSettings::default() });
        self
    }
}

impl OpenFile {
    /// The file's keys, if the gate is open for such access; unwrapped anew, for whoever asks, if
    /// they were taken away before it opened again.
    pub(super) fn keys(&self, fs: &Fs, access: Access, asker: &Asker) -> FsResult<KeysInUse<'_>> {
        loop {
            self.gate.read().check(access)?;
            let guard = RwLockReadGuard::try_map(self.keys.read(), Option::as_deref);
            if let Ok(keys) = guard {
                // Checked with the keys held: whoever cuts the key closes the gate first and takes
                // the keys then.
                self.gate.read().check(access)?;
                return Ok(KeysInUse(keys));
            }
            drop(guard);
            self.fetch_keys(fs, asker)?;
        }
    }

    fn fetch_keys(&self, fs: &Fs, asker: &Asker) -> FsResult<()> {
        let head = self.sealed.head();
        let blob = self.sealed.wrapped().blob;
        let context = file_context(head.volume, head.object);
        let data_key = asker.unwrap(fs, &blob, &context)?;
        let derived = self.sealed.derive_keys(&data_key)?;
        let keys = self.keys.upgradable_read();
        self.gate.read().check(Access::Program)?;
        if keys.is_none() {
            *RwLockUpgradableReadGuard::upgrade(keys) = Some(Arc::new(derived));
        }
        Ok(())
    }
}
