//! The cache of data keys.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use kmsfs::kms::EncryptionContext;
use kmsfs::provider::{CacheSettings, KeyCache, ProviderError};
use kmsfs::secret::{KEY_LEN, Key};
use kmsfs::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kmsfs::sync::{advance, thread};

use crate::explore::explore;
use crate::master::{Master, stamp};

const BLOB: [u8; KEY_LEN] = [1; KEY_LEN];
const MAX_AGE: Duration = Duration::from_secs(10);

struct World {
    master: Master,
    cache: KeyCache,
    /// How often the key was revoked, and everyone told.
    cuts: AtomicU32,
}

impl World {
    fn new() -> Arc<Self> {
        let settings = CacheSettings { entries: NonZeroUsize::new(4).unwrap(), max_age: MAX_AGE };
        Arc::new(Self { master: Master::stamping(), cache: KeyCache::new(settings), cuts: AtomicU32::new(0) })
    }

    fn unwrap(&self) -> Result<Arc<Key>, ProviderError> {
        self.cache.unwrap(&self.master, &BLOB, &EncryptionContext::new())
    }

    /// Revokes the key, as a mount is told of it.
    fn cut(&self) {
        self.master.revoke();
        self.cache.evict_key(&Master::id());
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs `work` on `count` threads; answers what each returned.
fn on_threads<T: Send + 'static>(
    world: &Arc<World>,
    count: usize,
    work: impl Fn(&World) -> T + Send + Copy + 'static,
) -> Vec<thread::JoinHandle<T>> {
    let spawn = |world: Arc<World>| thread::spawn(move || work(&world));
    (0..count).map(|_| spawn(Arc::clone(world))).collect()
}

#[test]
fn a_key_is_fetched_once_however_many_want_it() {
    explore(3000, || {
        let world = World::new();
        let threads = on_threads(&world, 3, |world| world.unwrap().unwrap());
        let keys: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(keys.iter().all(|key| Arc::ptr_eq(key, &keys[0])));
        assert_eq!(world.master.calls.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_key_that_was_cut_is_not_handed_out() {
    explore(6000, || {
        let world = World::new();
        let threads = on_threads(&world, 2, |world| {
            for _ in 0..2 {
                let late = world.cuts.load(Ordering::SeqCst) > 0;
                assert!(!(late && world.unwrap().is_ok()), "a revoked key was handed out");
            }
        });
        world.cut();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(world.cache.is_empty(), "a revoked key was kept");
    });
}

#[test]
fn a_key_that_was_made_before_a_cut_is_not_handed_out() {
    explore(6000, || {
        let world = World::new();
        let threads = on_threads(&world, 2, |world| {
            let late = world.cuts.load(Ordering::SeqCst) > 0;
            let made = world.cache.generate(&world.master, "key", &EncryptionContext::new());
            assert!(!(late && made.is_ok()), "a data key was made under a revoked key");
        });
        world.cut();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(world.cache.is_empty(), "a data key of a revoked key was kept");
    });
}

/// As for [`a_key_that_was_cut_is_not_handed_out`], with the key back in between: what comes after
/// it must have been unwrapped after it.
#[test]
fn a_key_is_fetched_anew_when_it_is_restored() {
    explore(6000, || {
        let world = World::new();
        let threads = on_threads(&world, 2, |world| {
            for _ in 0..2 {
                let cut = world.cuts.load(Ordering::SeqCst) > 0;
                if let Ok(key) = world.unwrap() {
                    assert!(!cut || stamp(&key) > Duration::ZERO, "a key from before the cut");
                }
            }
        });
        world.master.revoke();
        // Whatever is unwrapped under the key from now on says that it was later.
        advance(Duration::from_nanos(1));
        world.cut();
        world.master.restore();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(stamp(&world.unwrap().unwrap()) > Duration::ZERO);
    });
}

#[test]
fn no_key_is_older_than_its_most() {
    explore(4000, || {
        let world = World::new();
        let threads = on_threads(&world, 2, |world| {
            for _ in 0..2 {
                let now = world.master.now();
                let age = now.saturating_sub(stamp(&world.unwrap().unwrap()));
                assert!(age < MAX_AGE, "a key of age {age:?}");
            }
        });
        for _ in 0..3 {
            thread::yield_now();
            advance(MAX_AGE / 2);
            world.cache.expire();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        advance(MAX_AGE);
        world.cache.expire();
        assert!(world.cache.is_empty(), "it was kept longer than that");
    });
}

#[test]
fn a_failure_reaches_everyone_and_is_not_kept() {
    explore(3000, || {
        let world = World::new();
        world.master.revoke();
        let failed = Arc::new(AtomicBool::new(false));
        let threads = on_threads(&world, 3, |world| world.unwrap().map(drop));
        for thread in threads {
            failed.fetch_or(thread.join().unwrap().is_err(), Ordering::SeqCst);
        }
        assert!(failed.load(Ordering::SeqCst));
        world.master.restore();
        assert!(world.unwrap().is_ok());
    });
}
