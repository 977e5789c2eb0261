//! Caching as callers see it.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::clock::SystemClock;
use crate::kms::api::KeyRequest;
use crate::kms::{
    Caller, Costs, DataKey, KeyMetadata, KeyWatcher, Service, StoreOptions, UnlockSecret, UnwrappedDataKey,
};
use crate::provider::Embedded;
use crate::secret::Passphrase;

/// A real service behind a provider that counts calls and can be held up or made to panic.
struct Gated {
    service: Arc<Service>,
    inner: Embedded,
    calls: AtomicU32,
    /// While set, calls wait after they have been answered.
    hold: AtomicBool,
    panics: AtomicBool,
    key: String,
    _dir: tempfile::TempDir,
}

impl Gated {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()));
        let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
        let options = StoreOptions { costs, ..StoreOptions::default() };
        let service = Service::create(dir.path(), &secret, &options, Arc::new(SystemClock)).unwrap();
        let key = service.create_key(&Caller::current(), &Default::default()).unwrap().arn;
        Self {
            inner: Embedded::new(Arc::clone(&service), Caller::current()),
            service,
            calls: AtomicU32::new(0),
            hold: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            key,
            _dir: dir,
        }
    }

    fn blob(&self) -> Vec<u8> {
        self.inner.generate_data_key(&self.key, &context()).unwrap().blob
    }

    fn disable(&self) {
        let request = KeyRequest { key_id: self.key.clone() };
        self.service.disable_key(&Caller::current(), &request).unwrap();
    }

    fn id(&self, blob: &[u8]) -> KeyId {
        Blob::parse(blob).unwrap().head.key
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    fn answered(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.load(Ordering::SeqCst), "asked to panic");
        while self.hold.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }
}

impl Provider for Gated {
    fn generate_data_key(&self, key: &str, context: &EncryptionContext) -> Result<DataKey, ProviderError> {
        let answer = self.inner.generate_data_key(key, context);
        self.answered();
        answer
    }

    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError> {
        let answer = self.inner.unwrap(blob, context);
        self.answered();
        answer
    }

    fn rewrap(&self, blob: &[u8], context: &EncryptionContext, key: &str) -> Result<Vec<u8>, ProviderError> {
        self.inner.rewrap(blob, context, key)
    }

    fn describe_key(&self, key: &str) -> Result<KeyMetadata, ProviderError> {
        self.inner.describe_key(key)
    }

    fn create_internal_key(&self, description: &str) -> Result<KeyMetadata, ProviderError> {
        self.inner.create_internal_key(description)
    }

    fn attach(&self, watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError> {
        self.inner.attach(watcher)
    }
}

fn context() -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:file", "f")
}

fn cache(entries: usize, max_age: Duration) -> KeyCache {
    KeyCache::new(CacheSettings { entries: NonZeroUsize::new(entries).unwrap(), max_age })
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_key_is_fetched_once_however_many_want_it() {
    let (provider, cache) = (Gated::new(), cache(8, LONG));
    let blob = provider.blob();
    provider.hold.store(true, Ordering::SeqCst);
    let start = Barrier::new(17);
    let keys: Vec<Arc<Key>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    cache.unwrap(&provider, &blob, &context()).unwrap()
                })
            })
            .collect();
        start.wait();
        thread::sleep(Duration::from_millis(50));
        // No lock is held during the fetch.
        assert!(cache.is_empty());
        provider.hold.store(false, Ordering::SeqCst);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(provider.calls(), 1);
    assert!(keys.iter().all(|key| Arc::ptr_eq(key, &keys[0])));
}

#[test]
fn what_one_is_refused_with_is_nobody_elses() {
    let (refusing, granting, cache) = (Gated::new(), Gated::new(), cache(8, LONG));
    let blob = granting.blob();
    refusing.hold.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let refused = scope.spawn(|| cache.unwrap_alone(&refusing, &blob, &context()));
        while refusing.calls() < 1 {
            thread::yield_now();
        }
        // While one waits to be refused, another gets the key and leaves it in the cache.
        let got = cache.unwrap_alone(&granting, &blob, &context()).unwrap();
        assert!(Arc::ptr_eq(&got, &cache.unwrap_alone(&granting, &blob, &context()).unwrap()));
        refusing.hold.store(false, Ordering::SeqCst);
        assert!(refused.join().unwrap().is_err());
    });
    assert_eq!((granting.calls(), cache.len()), (1, 1));
}

#[test]
fn another_context_is_another_entry() {
    let (provider, cache) = (Gated::new(), cache(8, LONG));
    let blob = provider.blob();
    cache.unwrap(&provider, &blob, &context()).unwrap();
    let other = cache.unwrap(&provider, &blob, &EncryptionContext::new());
    assert!(matches!(other, Err(ProviderError::InvalidCiphertext(_))));
    assert_eq!(cache.len(), 1);
}

#[test]
fn entries_end_by_age_number_and_eviction() {
    let provider = Gated::new();
    let (a, b, c) = (provider.blob(), provider.blob(), provider.blob());
    let small = cache(2, LONG);
    for blob in [&a, &b, &c, &b, &a] {
        small.unwrap(&provider, blob, &context()).unwrap();
    }
    assert_eq!((small.len(), provider.calls()), (2, 4), "the least recently used goes first");
    small.evict_key(&KeyId::from_bytes([1; 16]));
    assert_eq!(small.len(), 2);
    small.evict_key(&provider.id(&a));
    assert!(small.is_empty());

    let short = cache(8, Duration::from_millis(20));
    short.unwrap(&provider, &a, &context()).unwrap();
    let before = provider.calls();
    thread::sleep(Duration::from_millis(30));
    short.unwrap(&provider, &a, &context()).unwrap();
    assert_eq!(provider.calls(), before + 1);
    thread::sleep(Duration::from_millis(30));
    short.expire();
    assert!(short.is_empty());
}

#[test]
fn a_fetch_that_a_revocation_overtakes_is_neither_kept_nor_handed_out() {
    let (provider, cache) = (Gated::new(), cache(8, LONG));
    let blob = provider.blob();
    provider.hold.store(true, Ordering::SeqCst);
    let (unwrapped, generated) = thread::scope(|scope| {
        let unwrapping = scope.spawn(|| cache.unwrap(&provider, &blob, &context()));
        let alone = scope.spawn(|| cache.unwrap_alone(&provider, &blob, &context()));
        let generating = scope.spawn(|| cache.generate(&provider, &provider.key, &context()));
        while provider.calls() < 3 {
            thread::yield_now();
        }
        // Both have their keys in hand. Now the key is revoked.
        provider.disable();
        cache.evict_key(&provider.id(&blob));
        provider.hold.store(false, Ordering::SeqCst);
        assert!(matches!(alone.join().unwrap(), Err(ProviderError::Disabled(_))));
        (unwrapping.join().unwrap(), generating.join().unwrap())
    });
    assert!(matches!(unwrapped, Err(ProviderError::Disabled(_))));
    assert!(matches!(generated, Err(ProviderError::Disabled(_))));
    assert!(cache.is_empty());
}

#[test]
fn a_generated_key_is_found_again() {
    let (provider, cache) = (Gated::new(), cache(8, LONG));
    let made = cache.generate(&provider, &provider.key, &context()).unwrap();
    let got = cache.unwrap(&provider, &made.blob, &context()).unwrap();
    assert!(Arc::ptr_eq(&made.key, &got));
    assert_eq!((provider.calls(), made.key_version, &made.key_arn), (1, 1, &provider.key));
}

#[test]
fn failures_are_not_kept_and_a_panic_leaves_nobody_waiting() {
    let (provider, cache) = (Gated::new(), cache(8, LONG));
    let blob = provider.blob();
    provider.panics.store(true, Ordering::SeqCst);
    let panicked = thread::scope(|scope| scope.spawn(|| cache.unwrap(&provider, &blob, &context())).join());
    assert!(panicked.is_err());
    provider.panics.store(false, Ordering::SeqCst);
    assert!(cache.unwrap(&provider, &blob, &context()).is_ok());
}

#[test]
fn under_contention_an_evicted_key_never_comes_back() {
    let (provider, cache) = (Gated::new(), cache(64, LONG));
    let blobs: Vec<_> = (0..16).map(|_| provider.blob()).collect();
    let disabled = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (provider, cache, blobs, disabled) = (&provider, &cache, &blobs, &disabled);
            scope.spawn(move || {
                for round in 0..2000 {
                    let was_disabled = disabled.load(Ordering::SeqCst);
                    let got = cache.unwrap(provider, &blobs[(round * 7 + worker) % 16], &context());
                    assert!(!(was_disabled && got.is_ok()), "a revoked key was handed out");
                }
            });
        }
        thread::sleep(Duration::from_millis(5));
        provider.disable();
        cache.evict_key(&provider.id(&blobs[0]));
        disabled.store(true, Ordering::SeqCst);
    });
    assert!(cache.is_empty());
}
