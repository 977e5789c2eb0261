//! Unwrapped data keys, kept for a while.
//!
//! Entries are found by a hash of the wrapped key and its context. However many callers want the
//! same key at once, it is fetched once, and no lock is held meanwhile. Evicting a master key
//! also reaches fetches under way: what they bring is not kept, and is fetched anew before anyone
//! gets it, so that a key which was revoked in between is refused.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::{Provider, ProviderError, check_waiting};
use crate::crypto::kdf::{DIGEST_LEN, sha256};
use crate::kms::{Blob, EncryptionContext, KeyId};
use crate::secret::Key;
use crate::sync::{Condvar, Instant, Mutex};

/// Fetches of one call that may be overtaken by evictions before it gives up.
const MAX_FETCHES: u32 = 4;

/// Bounds of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// Most keys.
    pub entries: NonZeroUsize,
    /// How long a key may be used after it was unwrapped.
    pub max_age: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        const ENTRIES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16 * 1024 - 1);
        Self { entries: ENTRIES, max_age: Duration::from_secs(300) }
    }
}

/// A cache of data keys in locked memory. May be used from any thread.
///
/// A key handed out lives as long as its `Arc`: after an eviction it is up to the holder to let
/// go of it.
pub struct KeyCache {
    max_age: Duration,
    /// Protects the map and the list of fetches; never held during a fetch.
    inner: Mutex<Inner>,
}

/// A fresh data key that the cache holds too.
#[derive(Debug)]
pub struct CachedDataKey {
    /// The key, in locked memory.
    pub key: Arc<Key>,
    /// The key, wrapped: what to store.
    pub blob: Vec<u8>,
    /// Full name of the master key that wrapped it.
    pub key_arn: String,
    /// Number of the material that wrapped it.
    pub key_version: u32,
}

type Digest = [u8; DIGEST_LEN];

struct Inner {
    keys: LruCache<Digest, Cached>,
    flights: HashMap<Digest, Arc<Flight>>,
    /// Number of evictions so far.
    evictions: u64,
}

struct Cached {
    key: Arc<Key>,
    master: Option<KeyId>,
    since: Instant,
}

/// One fetch that several callers may wait for.
struct Flight {
    /// `None` when the wrapped key does not say, as of another service: any eviction matches.
    master: Option<KeyId>,
    state: Mutex<FlightState>,
    landed: Condvar,
}

#[derive(Default)]
struct FlightState {
    /// An eviction came after the fetch began.
    overtaken: bool,
    result: Option<Result<Arc<Key>, ProviderError>>,
}

impl KeyCache {
    /// An empty cache.
    pub fn new(settings: CacheSettings) -> Self {
        let inner = Inner { keys: LruCache::sparse(settings.entries), flights: HashMap::new(), evictions: 0 };
        Self { max_age: settings.max_age, inner: Mutex::new(inner) }
    }

    /// The data key in `blob`, from the cache or else from `provider`.
    ///
    /// # Errors
    /// What `provider` answers; failures are not cached. [`ProviderError::Unavailable`] when
    /// evictions overtake the fetch again and again.
    pub fn unwrap(
        &self,
        provider: &dyn Provider,
        blob: &[u8],
        context: &EncryptionContext,
    ) -> Result<Arc<Key>, ProviderError> {
        let digest = digest(blob, context);
        let flight = {
            let mut inner = self.inner.lock();
            if let Some(key) = inner.fresh(&digest, self.max_age) {
                return Ok(key);
            }
            check_waiting(|| provider.may_wait(master(blob).as_deref()))?;
            if let Some(flight) = inner.flights.get(&digest) {
                let flight = Arc::clone(flight);
                drop(inner);
                return flight.wait();
            }
            let flight = Arc::new(Flight::new(blob));
            inner.flights.insert(digest, Arc::clone(&flight));
            flight
        };
        let landing = Landing { cache: self, digest, flight: &flight };
        landing.fetch(|| provider.unwrap(blob, context).map(|unwrapped| Arc::new(unwrapped.plaintext)))
    }

    /// As [`KeyCache::unwrap`], for whom `provider` may answer otherwise than others: a fetch is
    /// shared with nobody, nor is what it is refused with. What is in the cache is for whoever asks;
    /// the caller has made sure that he may.
    ///
    /// # Errors
    /// As [`KeyCache::unwrap`].
    pub fn unwrap_alone(
        &self,
        provider: &dyn Provider,
        blob: &[u8],
        context: &EncryptionContext,
    ) -> Result<Arc<Key>, ProviderError> {
        let digest = digest(blob, context);
        for _ in 0..MAX_FETCHES {
            let evictions = {
                let mut inner = self.inner.lock();
                if let Some(key) = inner.fresh(&digest, self.max_age) {
                    return Ok(key);
                }
                check_waiting(|| provider.may_wait(master(blob).as_deref()))?;
                inner.evictions
            };
            let since = Instant::now();
            let key = Arc::new(provider.unwrap(blob, context)?.plaintext);
            let mut inner = self.inner.lock();
            if inner.evictions == evictions {
                inner.keys.put(digest, Cached { key: Arc::clone(&key), master: master_id(blob), since });
                return Ok(key);
            }
        }
        Err(gave_up())
    }

    /// A fresh data key under `key`, which is kept from the start.
    ///
    /// # Errors
    /// What `provider` answers, and as [`KeyCache::unwrap`].
    pub fn generate(
        &self,
        provider: &dyn Provider,
        key: &str,
        context: &EncryptionContext,
    ) -> Result<CachedDataKey, ProviderError> {
        for _ in 0..MAX_FETCHES {
            let evictions = self.inner.lock().evictions;
            let since = Instant::now();
            let made = provider.generate_data_key(key, context)?;
            let key = Arc::new(made.plaintext);
            let mut inner = self.inner.lock();
            if inner.evictions != evictions {
                continue;
            }
            let cached = Cached { key: Arc::clone(&key), master: master_id(&made.blob), since };
            inner.keys.put(digest(&made.blob, context), cached);
            return Ok(CachedDataKey {
                key,
                blob: made.blob,
                key_arn: made.key_arn,
                key_version: made.key_version,
            });
        }
        Err(gave_up())
    }

    /// Forgets every data key under the master key `id`, those being fetched too.
    pub fn evict_key(&self, id: &KeyId) {
        self.evict(|master| master.is_none_or(|master| master == *id));
    }

    /// Forgets everything, fetches under way too.
    pub fn clear(&self) {
        self.evict(|_| true);
    }

    /// Forgets the keys that are too old to be used. Called now and then, it bounds how long an
    /// unused key stays in memory.
    pub fn expire(&self) {
        let max_age = self.max_age;
        self.inner.lock().keys.retain(|_, cached| cached.since.elapsed() < max_age);
    }

    /// Number of keys kept.
    pub fn len(&self) -> usize {
        self.inner.lock().keys.len()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn evict(&self, matches: impl Fn(Option<KeyId>) -> bool) {
        let mut inner = self.inner.lock();
        inner.evictions += 1;
        inner.keys.retain(|_, cached| !matches(cached.master));
        for flight in inner.flights.values().filter(|flight| matches(flight.master)) {
            flight.state.lock().overtaken = true;
        }
    }
}

impl std::fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyCache").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Inner {
    fn fresh(&mut self, digest: &Digest, max_age: Duration) -> Option<Arc<Key>> {
        let cached = self.keys.get(digest)?;
        if cached.since.elapsed() < max_age {
            return Some(Arc::clone(&cached.key));
        }
        self.keys.pop(digest);
        None
    }
}

impl Flight {
    fn new(blob: &[u8]) -> Self {
        Self { master: master_id(blob), state: Mutex::default(), landed: Condvar::new() }
    }

    fn wait(&self) -> Result<Arc<Key>, ProviderError> {
        let mut state = self.state.lock();
        loop {
            match &state.result {
                Some(result) => return result.clone(),
                None => self.landed.wait(&mut state),
            }
        }
    }
}

/// Sees to it that a flight ends, even if the fetch panics: nobody waits for ever.
struct Landing<'a> {
    cache: &'a KeyCache,
    digest: Digest,
    flight: &'a Flight,
}

impl Landing<'_> {
    fn fetch(self, fetch: impl Fn() -> Result<Arc<Key>, ProviderError>) -> Result<Arc<Key>, ProviderError> {
        for _ in 0..MAX_FETCHES {
            self.flight.state.lock().overtaken = false;
            let since = Instant::now();
            let result = fetch();
            // Locked until the key is in: an eviction comes either before, and is seen, or after,
            // and finds the key.
            let mut inner = self.cache.inner.lock();
            let mut state = self.flight.state.lock();
            if let Ok(key) = &result {
                if state.overtaken {
                    continue;
                }
                let cached = Cached { key: Arc::clone(key), master: self.flight.master, since };
                inner.keys.put(self.digest, cached);
            }
            inner.flights.remove(&self.digest);
            state.result = Some(result.clone());
            return result;
        }
        Err(gave_up())
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut inner = self.cache.inner.lock();
        let mut state = self.flight.state.lock();
        if state.result.is_none() {
            state.result = Some(Err(gave_up()));
            inner.flights.remove(&self.digest);
        }
        self.flight.landed.notify_all();
    }
}

fn gave_up() -> ProviderError {
    ProviderError::Unavailable(
        "the master key's state changed while a data key was fetched; retry".to_owned(),
    )
}

fn master_id(blob: &[u8]) -> Option<KeyId> {
    Blob::parse(blob).ok().map(|blob| blob.head.key)
}

/// The id of the master key that wrapped a data key, if it says so.
pub(super) fn master(blob: &[u8]) -> Option<String> {
    master_id(blob).map(|id| id.to_string())
}

fn digest(blob: &[u8], context: &EncryptionContext) -> Digest {
    sha256(&[&(blob.len() as u64).to_le_bytes(), blob, &context.canonical()])
}

#[cfg(test)]
mod tests;
