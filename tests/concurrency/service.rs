//! The key service: changes of state against each other, against data keys and against mounts.

use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use kmsfs::clock::SystemClock;
use kmsfs::fs::Watcher;
use kmsfs::kms::api::{AliasRequest, CreateKeyRequest, KeyRequest, ListKeysRequest};
use kmsfs::kms::{
    Caller, Costs, CutReport, EncryptionContext, KeyId, KeyState, KeyWatcher, MountStatus, Service,
    StoreOptions, UnlockSecret,
};
use kmsfs::secret::Passphrase;
use kmsfs::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kmsfs::sync::thread;
use tempfile::TempDir;

use crate::explore::{explore, once};
use crate::volume::{Unmounted, embedded, file, open_and_read, read, temporary};

/// A key store with one key that is enabled.
struct Locked {
    dir: TempDir,
    key: String,
}

fn secret() -> UnlockSecret {
    UnlockSecret::KeyFile(Passphrase::new(vec![7; 64]))
}

fn unlock(dir: &Path) -> Arc<Service> {
    Service::open(dir, &secret(), Arc::new(SystemClock)).unwrap()
}

impl Locked {
    fn new() -> Arc<Self> {
        once(|| {
            let dir = temporary();
            let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
            let options = StoreOptions { costs, ..StoreOptions::default() };
            let service = Service::create(dir.path(), &secret(), &options, Arc::new(SystemClock)).unwrap();
            let key = service.create_key(&Caller::current(), &CreateKeyRequest::default()).unwrap().arn;
            Arc::new(Self { dir, key })
        })
    }
}

struct World {
    service: Arc<Service>,
    caller: Caller,
    key: String,
    /// A data key under it, wrapped.
    blob: Vec<u8>,
    disabled: AtomicBool,
}

impl World {
    fn new(locked: &Locked) -> Arc<Self> {
        let (service, caller) = (unlock(locked.dir.path()), Caller::current());
        let made = service.generate_data_key(&caller, &locked.key, &EncryptionContext::new()).unwrap();
        let (key, disabled) = (locked.key.clone(), AtomicBool::new(false));
        Arc::new(Self { service, caller, key, blob: made.blob, disabled })
    }

    fn request(&self) -> KeyRequest {
        KeyRequest { key_id: self.key.clone() }
    }

    fn disable(&self) {
        self.service.disable_key(&self.caller, &self.request()).unwrap();
        self.disabled.store(true, Ordering::SeqCst);
    }

    fn enable(&self) {
        self.service.enable_key(&self.caller, &self.request()).unwrap();
    }

    fn can_unwrap(&self) -> bool {
        self.service.decrypt_data_key(&self.caller, &self.blob, &EncryptionContext::new()).is_ok()
    }

    fn can_generate(&self) -> bool {
        self.service.generate_data_key(&self.caller, &self.key, &EncryptionContext::new()).is_ok()
    }

    fn state(&self) -> KeyState {
        self.service.describe_key(&self.caller, &self.request()).unwrap().key_state
    }

    fn spawn(self: &Arc<Self>, work: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let world = Arc::clone(self);
        thread::spawn(move || work(&world))
    }
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A mount that notes what it was told last, and asks the service while it is told.
struct Mount {
    world: OnceLock<Weak<World>>,
    /// 0 nothing, 1 restored, 2 cut.
    told: AtomicU32,
    locked: AtomicBool,
    holds: Vec<String>,
}

impl Mount {
    fn new(world: &Arc<World>, holds: &[String]) -> Arc<Self> {
        let mount = Self {
            world: OnceLock::new(),
            told: AtomicU32::new(0),
            locked: AtomicBool::new(false),
            holds: holds.to_vec(),
        };
        mount.world.set(Arc::downgrade(world)).unwrap();
        Arc::new(mount)
    }

    /// Unless everything ends already.
    fn assert_can_unwrap(&self, expected: bool, told: &str) {
        if let Some(world) = self.world.get().and_then(Weak::upgrade) {
            assert_eq!(world.can_unwrap(), expected, "while told to {told}");
        }
    }

    /// Whether what the mount was told last fits the key's state.
    fn assert_in_step(&self, state: KeyState) {
        let told = self.told.load(Ordering::SeqCst);
        assert_eq!(told == 2, state != KeyState::Enabled, "told {told} of a key that is {state}");
    }
}

impl KeyWatcher for Mount {
    fn describe(&self) -> MountStatus {
        let open_files = self.holds.iter().map(|key| (key.clone(), 1)).collect();
        MountStatus { open_files, ..MountStatus::default() }
    }

    fn drain(&self, _key: &KeyId, _budget: Duration, _keep: bool) -> CutReport {
        // Whoever drains may still need keys.
        self.assert_can_unwrap(true, "drain");
        CutReport::default()
    }

    fn cut(&self, _key: &KeyId, _state: Option<KeyState>) -> CutReport {
        self.assert_can_unwrap(false, "cut");
        self.told.store(2, Ordering::SeqCst);
        CutReport::default()
    }

    fn restore(&self, _key: &KeyId) {
        self.assert_can_unwrap(true, "restore");
        self.told.store(1, Ordering::SeqCst);
    }

    fn lock(&self, _budget: Duration) -> CutReport {
        self.assert_can_unwrap(false, "lock");
        self.locked.store(true, Ordering::SeqCst);
        CutReport::default()
    }

    fn unlock(&self) {
        self.locked.store(false, Ordering::SeqCst);
    }
}

#[test]
fn a_disabled_key_makes_and_opens_nothing() {
    let locked = Locked::new();
    explore(300, move || {
        let world = World::new(&locked);
        let users = [World::can_unwrap, World::can_generate].map(|works| {
            world.spawn(move |world| {
                for _ in 0..2 {
                    let late = world.disabled.load(Ordering::SeqCst);
                    assert!(!(late && works(world)), "a disabled key was used");
                }
            })
        });
        world.disable();
        join(users);
        assert!(!world.can_unwrap() && !world.can_generate());
        world.enable();
        assert!(world.can_unwrap() && world.can_generate());
    });
}

#[test]
fn mounts_hear_of_changes_in_their_order() {
    let locked = Locked::new();
    explore(300, move || {
        let world = World::new(&locked);
        let mount = Mount::new(&world, &[]);
        let guard = world.service.watch(Arc::clone(&mount) as Arc<dyn KeyWatcher>);
        join([
            world.spawn(World::disable),
            world.spawn(World::enable),
            world.spawn(|world| {
                world.can_unwrap();
            }),
        ]);
        mount.assert_in_step(world.state());
        world.enable();
        drop(guard);
    });
}

#[test]
fn a_mount_that_comes_back_during_a_change_is_brought_into_step() {
    let locked = Locked::new();
    explore(300, move || {
        let world = World::new(&locked);
        let mount = Mount::new(&world, std::slice::from_ref(&world.key));
        let changing = world.spawn(World::disable);
        let guard = world.service.watch(Arc::clone(&mount) as Arc<dyn KeyWatcher>);
        changing.join().unwrap();
        // The service does it in the background.
        while mount.told.load(Ordering::SeqCst) != 2 {
            thread::yield_now();
        }
        world.enable();
        mount.assert_in_step(KeyState::Enabled);
        drop(guard);
    });
}

#[test]
fn whatever_comes_together_nobody_waits_for_ever() {
    let locked = Locked::new();
    explore(200, move || {
        let world = World::new(&locked);
        let mount = Mount::new(&world, &[]);
        let guard = world.service.watch(Arc::clone(&mount) as Arc<dyn KeyWatcher>);
        let naming = |world: &World| {
            let request = AliasRequest { alias_name: "alias/a".to_owned(), target_key_id: world.key.clone() };
            // In a later round it is there already.
            let _ = world.service.create_alias(&world.caller, &request);
            world.service.status();
        };
        let looking = |world: &World| {
            world.service.list_keys(&world.caller, &ListKeysRequest::default()).unwrap();
            world.service.tick();
            world.can_generate();
        };
        join([
            world.spawn(World::disable),
            world.spawn(World::enable),
            world.spawn(naming),
            world.spawn(looking),
        ]);
        mount.assert_in_step(world.state());
        world.enable();
        drop(guard);
    });
}

/// The whole: service, provider, cache, filesystem.
#[test]
fn once_a_key_is_disabled_no_mount_reads_under_it() {
    let locked = Locked::new();
    let volume = {
        let locked = Arc::clone(&locked);
        once(move || Arc::new(Unmounted::under(&embedded(&unlock(locked.dir.path())), &locked.key)))
    };
    explore(200, move || {
        let world = World::new(&locked);
        let fs = volume.mount(&embedded(&world.service));
        let guard = world.service.watch(Arc::new(Watcher(Arc::clone(&fs))));
        let ino = file(&fs);
        let fh = fs.open(ino, false).unwrap();
        let (reading, opening) = (Arc::clone(&fs), Arc::clone(&fs));
        let users = [
            world.spawn(move |world| {
                let late = world.disabled.load(Ordering::SeqCst);
                assert!(!(late && read(&reading, fh).is_ok()), "read under a disabled key");
            }),
            world.spawn(move |world| {
                let late = world.disabled.load(Ordering::SeqCst);
                assert!(!(late && open_and_read(&opening, ino).is_ok()), "opened under a disabled key");
            }),
        ];
        world.disable();
        join(users);
        assert!(read(&fs, fh).is_err() && open_and_read(&fs, ino).is_err());
        world.enable();
        assert_eq!([read(&fs, fh), open_and_read(&fs, ino)], [Ok(0), Ok(0)]);
        drop(guard);
        fs.release(fh);
        fs.shut_down().unwrap();
    });
}
