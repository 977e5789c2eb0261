//! Locking and unlocking: what is refused, what is gone from memory, what comes back, what mounts see.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::imports::until;
use super::*;
use crate::kms::error::Reason;
use crate::kms::spec::KeySpec;
use crate::kms::state::KeyState;
use crate::kms::store_api::{LockReason, SecretMessage, UnlockStoreRequest};
use crate::kms::wire::dispatch;
use crate::kms::{CutReport, KeyId};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A mount that remembers what it was told, and may be too slow to answer.
#[derive(Default)]
struct Mount {
    told: Mutex<Vec<String>>,
    locked: AtomicBool,
    cut: Mutex<BTreeSet<KeyId>>,
    holds: Vec<String>,
    deaf: Duration,
}

impl KeyWatcher for Mount {
    fn describe(&self) -> MountStatus {
        MountStatus {
            mountpoint: "/m".to_owned(),
            locked: self.locked.load(Ordering::SeqCst),
            open_files: self.holds.iter().map(|key| (key.clone(), 1)).collect(),
            ..MountStatus::default()
        }
    }

    fn drain(&self, _: &KeyId, _: Duration, _: bool) -> CutReport {
        CutReport { mount: "/m".to_owned(), ..CutReport::default() }
    }

    fn cut(&self, key: &KeyId, state: Option<KeyState>) -> CutReport {
        self.told.lock().push(format!("cut {state:?}"));
        self.cut.lock().insert(*key);
        CutReport { mount: "/m".to_owned(), ..CutReport::default() }
    }

    fn restore(&self, key: &KeyId) {
        self.cut.lock().remove(key);
    }

    fn lock(&self, _: Duration) -> CutReport {
        std::thread::sleep(self.deaf);
        self.told.lock().push("lock".to_owned());
        self.locked.store(true, Ordering::SeqCst);
        CutReport { mount: "/m".to_owned(), files: 2, handles: 3, ..CutReport::default() }
    }

    fn unlock(&self) {
        self.told.lock().push("unlock".to_owned());
        self.locked.store(false, Ordering::SeqCst);
    }
}

impl World {
    fn lock(&self) -> crate::kms::store_api::LockStoreResponse {
        self.service().lock_store(&self.caller).unwrap()
    }

    fn try_unlock(&self, secret: &str) -> Result<Value, KmsError> {
        let secret = SecretMessage::from(&passphrase(secret));
        let request = serde_json::to_value(UnlockStoreRequest { secret }).unwrap();
        dispatch(self.service(), &self.caller, "Kmsfs.UnlockStore", &request)
    }

    fn unlock(&self) {
        assert_eq!(self.try_unlock("p").unwrap(), json!({"WasLocked": true, "Silent": []}));
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.path().join("store.redb")).unwrap()
    }
}

fn is_locked<T: std::fmt::Debug>(result: Result<T, KmsError>) -> bool {
    result
        .is_err_and(|error| error.kind() == ErrorKind::InvalidState && error.reason() == Some(Reason::Locked))
}

#[test]
fn a_locked_store_refuses_what_needs_keys_or_writes_and_answers_the_rest() {
    let world = World::new();
    let key = world.key();
    world.lock();
    let before = world.file();
    let answered: BTreeSet<&str> = Operation::ALL
        .iter()
        .filter(|operation| {
            let called = world.service().run(&world.caller, **operation, &named(&key), |_| Ok(()));
            assert!(called.is_ok() || is_locked(called.clone()), "{operation}: {called:?}");
            called.is_ok()
        })
        .map(|operation| operation.name())
        .collect();
    let expected = BTreeSet::from([
        "DescribeKey",
        "ListKeys",
        "ListKeyRotations",
        "ListAliases",
        "GetKeyRotationStatus",
        "GetKeyLastUsage",
        "ListResourceTags",
        "GetKeyPolicy",
        "ListKeyPolicies",
        "ListGrants",
        "ListRetirableGrants",
        "DescribeCustomKeyStores",
        "ListAccessKeys",
        "GetKeyImpact",
        "GetDeletionReceipt",
        "ListDeletionReceipts",
    ]);
    assert_eq!(answered, expected);
    assert_eq!(world.service().describe_key(&world.caller, &named(&key)).unwrap(), key);
    let path = world.path().join("backup");
    let secret = SecretMessage::from(&passphrase("p"));
    for (operation, body, works) in [
        ("Status", json!({}), true),
        ("StoreInfo", json!({}), true),
        ("VerifyAudit", json!({}), true),
        ("ListVolumes", json!({}), true),
        ("CheckStore", json!({}), false),
        ("BackUpStore", json!({"Path": path}), false),
        ("KeepBackup", json!({}), false),
        ("AddUnlockSlot", json!({"Current": secret, "New": secret}), false),
        ("RemoveUnlockSlot", json!({"Current": secret, "Number": 0}), false),
        ("ForgetVolume", json!({"VolumeId": "v"}), false),
    ] {
        let answer = dispatch(world.service(), &world.caller, &format!("Kmsfs.{operation}"), &body);
        assert!(if works { answer.is_ok() } else { is_locked(answer.clone()) }, "{operation}: {answer:?}");
    }
    world.clock.advance(DAY * 400);
    world.service().tick();
    assert!(world.file() == before, "something was written");
    let status = world.service().status();
    assert_eq!((status.unlocked, status.locked.unwrap().reason), (false, LockReason::Command));
    world.unlock();
    assert!(world.service().status().locked.is_none());
}

#[test]
fn no_key_is_left_in_memory_and_every_one_comes_back() {
    let world = World::new();
    let (key, imported) = (world.key(), world.external(KeySpec::SymmetricDefault));
    world.import(&world.request(&imported, &[0x5a; 32])).unwrap();
    let pending = world.external(KeySpec::SymmetricDefault);
    let import = world.request(&pending, &[0x6b; 32]);
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    let unwrap = || world.service().decrypt_data_key(&world.caller, &made.blob, &context());
    let wraps = || world.service().entry(&key.key_id).unwrap().held(1).unwrap().wraps();

    world.lock();
    let holds_nothing = {
        let book = world.service().book.read();
        book.imports.is_empty() && book.keys.values().all(|entry| entry.material.iter().all(Option::is_none))
    };
    assert!(holds_nothing);
    assert!(is_locked(unwrap().map(|_| ())));
    assert!(is_locked(world.import(&import)));

    for wrong in ["", "q", "pp"] {
        let refused = world.try_unlock(wrong).unwrap_err();
        assert_eq!((refused.kind(), refused.reason()), (ErrorKind::AccessDenied, Some(Reason::WrongSecret)));
        assert!(is_locked(unwrap().map(|_| ())));
    }
    world.unlock();
    assert_eq!(unwrap().unwrap().plaintext.expose(), made.plaintext.expose());
    assert_eq!(wraps(), 1, "the count of wraps goes on");
    world.import(&import).unwrap();
    assert_eq!(world.state(&pending), KeyState::Enabled);
    // Twice is once, and the secret of an unlocked store is not tried.
    let answer = world.try_unlock("wrong").unwrap();
    assert_eq!(answer["WasLocked"], false);
    let since = world.lock().locked;
    world.clock.advance(DAY);
    let again = world.lock();
    assert!(again.was_locked && again.locked == since);
}

#[test]
fn a_store_that_is_given_up_locked_opens_again_whole() {
    let mut world = World::new();
    let key = world.key();
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    world.lock();
    assert!(is_locked(world.service().disable_key(&world.caller, &named(&key))));
    world.reopen();
    let unwrapped = world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap();
    assert_eq!(unwrapped.plaintext.expose(), made.plaintext.expose());
    let report = dispatch(world.service(), &world.caller, "Kmsfs.VerifyAudit", &json!({})).unwrap();
    assert_eq!(report["Findings"], json!([]), "{report}");
}

#[test]
fn the_owner_alone_locks_and_unlocks_and_the_log_says_so() {
    let world = World::new();
    let key = world.key();
    let stranger = Caller::local(world.caller.uid + 4242, 4242, 1, "stranger".to_owned());
    let denied = world.service().lock_store(&stranger).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::AccessDenied);
    assert!(!world.service().is_locked());
    world.lock();
    let secret = json!({"Secret": SecretMessage::from(&passphrase("p"))});
    let denied = dispatch(world.service(), &stranger, "Kmsfs.UnlockStore", &secret).unwrap_err();
    assert_eq!((denied.kind(), denied.reason()), (ErrorKind::AccessDenied, None));
    assert!(is_locked(world.service().disable_key(&world.caller, &named(&key))));
    assert!(world.try_unlock("wrong").is_err());
    world.unlock();
    world.service().lock_by_itself(LockReason::Idle);
    world.service().flush_audit().unwrap();

    let log = world.path().join(super::super::DIRECTORY);
    let files = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let text: String = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let events: Vec<(String, String, String)> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(&line[line.find('{')?..=line.rfind('}')?]).ok())
        .filter(|event| {
            event["eventName"].as_str().is_some_and(|name| name.ends_with("Store") || name == "DisableKey")
        })
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let reason = text(&event["requestParameters"]["reason"]);
            (text(&event["eventName"]), text(&event["errorCode"]), reason)
        })
        .collect();
    let expected = [
        ("LockStore", "AccessDeniedException", ""),
        ("LockStore", "", "Command"),
        ("UnlockStore", "AccessDeniedException", ""),
        ("DisableKey", "KMSInvalidStateException", ""),
        ("UnlockStore", "AccessDeniedException", ""),
        ("UnlockStore", "", ""),
        ("LockStore", "", "Idle"),
    ];
    let expected =
        expected.map(|(name, error, reason)| (name.to_owned(), error.to_owned(), reason.to_owned()));
    assert_eq!(events, expected);
}

#[test]
fn what_fell_due_while_locked_is_done_before_mounts_are_let_in() {
    let world = World::new();
    let (doomed, worn) = (world.key(), world.key());
    let service = world.service();
    let expiring = world.external(KeySpec::SymmetricDefault);
    let request = until(&world.request(&expiring, &[0x5a; 32]), world.clock.now() + DAY);
    world.import(&request).unwrap();
    let deletion = ScheduleKeyDeletionRequest {
        key_id: doomed.arn.clone(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    service.schedule_key_deletion(&world.caller, &deletion).unwrap();
    let rotation = EnableKeyRotationRequest { key_id: worn.arn.clone(), rotation_period_in_days: Some(90) };
    service.enable_key_rotation(&world.caller, &rotation).unwrap();
    let mount = Arc::new(Mount::default());
    let _guard = service.watch(mount.clone());

    world.lock();
    world.clock.advance(DAY * 100);
    service.tick();
    assert_eq!(world.state(&doomed), KeyState::PendingDeletion, "deletions wait for the root key");
    world.unlock();
    assert_eq!(*mount.told.lock(), ["lock", "cut None", "cut Some(PendingImport)", "unlock"]);
    assert_eq!(world.state(&expiring), KeyState::PendingImport);
    let gone = service.describe_key(&world.caller, &named(&doomed)).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let rotated = service.describe_key(&world.caller, &named(&worn)).unwrap();
    assert_eq!(rotated.current_key_material_version, 2);
}

#[test]
fn mounts_that_come_are_brought_into_step_and_silent_ones_are_named() {
    let mut world = World::new();
    Arc::get_mut(world.service.as_mut().unwrap()).unwrap().drain_budget = Duration::from_millis(300);
    let service = world.service();
    let deaf = Arc::new(Mount { deaf: Duration::from_secs(8), ..Mount::default() });
    let guard = service.watch(deaf);
    let reports = world.lock().mounts;
    assert!(reports.len() == 1 && reports[0].unreachable && reports[0].mount == "/m", "{reports:?}");
    assert!(service.is_locked(), "locked in spite of that");
    drop(guard);

    // One that comes while it is locked, and one that missed the unlocking.
    let comes = Arc::new(Mount::default());
    let _guard = service.watch(comes.clone());
    wait_until(|| comes.locked.load(Ordering::SeqCst));
    world.unlock();
    assert!(!comes.locked.load(Ordering::SeqCst));
    let missed = Arc::new(Mount { locked: AtomicBool::new(true), ..Mount::default() });
    let _guard = service.watch(missed.clone());
    wait_until(|| !missed.locked.load(Ordering::SeqCst));
}

#[test]
fn the_store_counts_as_used_by_calls_and_by_files() {
    struct InUse(Option<u64>);
    impl KeyWatcher for InUse {
        fn describe(&self) -> MountStatus {
            MountStatus { mountpoint: "/m".to_owned(), unused_ms: self.0, ..MountStatus::default() }
        }
        fn drain(&self, _: &KeyId, _: Duration, _: bool) -> CutReport {
            CutReport::default()
        }
        fn cut(&self, _: &KeyId, _: Option<KeyState>) -> CutReport {
            CutReport::default()
        }
        fn restore(&self, _: &KeyId) {}
        fn lock(&self, _: Duration) -> CutReport {
            CutReport::default()
        }
        fn unlock(&self) {}
    }
    let world = World::new();
    let key = world.key();
    let service = world.service();
    service.generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    world.clock.advance(DAY);
    // Neither of these wants key material.
    service.describe_key(&world.caller, &named(&key)).unwrap();
    service.disable_key(&world.caller, &named(&key)).unwrap();
    assert_eq!(service.unused(), Duration::from_secs(24 * 3600));
    let guards = [InUse(None), InUse(Some(90_000)), InUse(Some(2000))].map(|m| service.watch(Arc::new(m)));
    assert_eq!(service.unused(), Duration::from_secs(2));
    drop(guards);
    service.generate_data_key(&world.caller, &key.arn, &context()).unwrap_err();
    assert_eq!(service.unused(), Duration::ZERO);
}

/// What a reference would say of two keys, one of which a mount holds.
#[test]
fn random_sequences_end_as_a_model_says() {
    for seed in 0..6_u64 {
        let mut world = World::new();
        let keys = [world.key(), world.key()];
        let blobs = keys
            .clone()
            .map(|key| world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap().blob);
        let mount =
            Arc::new(Mount { holds: keys.iter().map(|k| k.arn.clone()).collect(), ..Mount::default() });
        let mut guard = world.service().watch(mount.clone());
        let (mut locked, mut enabled) = (false, [true; 2]);
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        for step in 0..40 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (what, which) = ((dice >> 33) % 12, (dice >> 50) as usize % 2);
            let key = named(&keys[which]);
            let service = world.service();
            let changed = match what {
                0..=2 => Some((false, service.disable_key(&world.caller, &key).map(drop))),
                3..=5 => Some((true, service.enable_key(&world.caller, &key).map(drop))),
                _ => None,
            };
            match changed {
                Some((_, result)) if locked => assert!(is_locked(result), "seed {seed} step {step}"),
                Some((to, result)) => {
                    result.unwrap();
                    enabled[which] = to;
                }
                None if what < 8 => {
                    world.lock();
                    locked = true;
                }
                None if what < 9 => assert_eq!(world.try_unlock("wrong").is_err(), locked),
                None if what < 11 => {
                    world.try_unlock("p").unwrap();
                    locked = false;
                }
                None => {
                    // Another process takes over, and the mount comes to it.
                    drop(guard);
                    world.reopen();
                    locked = false;
                    guard = world.service().watch(mount.clone());
                    wait_until(|| !mount.locked.load(Ordering::SeqCst));
                }
            }
            assert_eq!(mount.locked.load(Ordering::SeqCst), locked, "seed {seed} step {step}");
            for (index, blob) in blobs.iter().enumerate() {
                let unwrapped = world.service().decrypt_data_key(&world.caller, blob, &context());
                assert_eq!(unwrapped.is_ok(), enabled[index] && !locked, "seed {seed} step {step}");
                let told = || mount.cut.lock().contains(&keys[index].key_id);
                wait_until(|| told() != enabled[index]);
            }
        }
        drop(guard);
    }
}
