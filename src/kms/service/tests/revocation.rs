//! Disabling and enabling as a mount sees it.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;
use crate::kms::state::KeyState;
use crate::kms::{CutReport, Remote, Unwritten};

/// A mount that writes down what it is told, with the key's state at that moment: in memory, and
/// whether a data key could be unwrapped.
struct Recorder {
    name: &'static str,
    service: Weak<Service>,
    blob: Vec<u8>,
    seen: Mutex<Vec<(&'static str, KeyState, bool)>>,
    sleep: Duration,
    holds: Vec<String>,
}

impl Recorder {
    fn new(world: &World, key: &KeyMetadata, name: &'static str) -> Self {
        let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
        Self {
            name,
            service: Arc::downgrade(world.service()),
            blob: made.blob,
            seen: Mutex::default(),
            sleep: Duration::ZERO,
            holds: Vec::new(),
        }
    }

    fn note(&self, what: &'static str, key: &KeyId) {
        let service = self.service.upgrade().unwrap();
        let state = service.entry(key).unwrap().record.state;
        let usable = service.decrypt_data_key(&Caller::current(), &self.blob, &context()).is_ok();
        self.seen.lock().push((what, state, usable));
    }

    fn report(&self, files: u64, unwritten: Vec<Unwritten>) -> CutReport {
        CutReport { mount: self.name.to_owned(), files, handles: 2 * files, unwritten, unreachable: false }
    }
}

impl KeyWatcher for Recorder {
    fn describe(&self) -> MountStatus {
        let open_files = self.holds.iter().map(|key| (key.clone(), 1)).collect();
        MountStatus { mountpoint: self.name.to_owned(), open_files, ..MountStatus::default() }
    }

    fn drain(&self, key: &KeyId, _: Duration, _keep: bool) -> CutReport {
        self.note("drain", key);
        std::thread::sleep(self.sleep);
        self.report(0, vec![lacking()])
    }

    fn cut(&self, key: &KeyId, state: Option<KeyState>) -> CutReport {
        let now = self.service.upgrade().unwrap().entry(key).ok().map(|entry| entry.record.state);
        assert_eq!(now, state);
        self.note("cut", key);
        self.report(3, Vec::new())
    }

    fn restore(&self, key: &KeyId) {
        self.note("restore", key);
    }

    fn lock(&self, _: Duration) -> CutReport {
        self.report(0, Vec::new())
    }

    fn unlock(&self) {}
}

/// What every recorder could not write.
fn lacking() -> Unwritten {
    Unwritten { file: "f".to_owned(), bytes: Some(7), lost: 0, error: "full".to_owned() }
}

#[test]
fn a_revocation_that_is_to_stop_does_so_and_leaves_everything_as_it_was() {
    let world = World::new();
    let key = world.key();
    let mount = Arc::new(Recorder::new(&world, &key, "/m"));
    let _guard = world.service().watch(mount.clone());
    let request = DisableKeyRequest { key_id: key.arn.clone(), stop_if_unwritten: true };
    let error = world.service().disable_key_as(&world.caller, &request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unwritten);
    assert_eq!(error.mounts(), [mount.report(0, vec![lacking()])]);
    let deletion =
        ScheduleKeyDeletionRequest { key_id: key.arn, pending_window_in_days: None, stop_if_unwritten: true };
    let error = world.service().schedule_key_deletion(&world.caller, &deletion).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unwritten);
    let called_off = [("drain", KeyState::Enabled, true), ("restore", KeyState::Enabled, true)];
    assert_eq!(*mount.seen.lock(), [called_off, called_off].concat());
    // Who does not care goes on.
    let deletion = ScheduleKeyDeletionRequest { stop_if_unwritten: false, ..deletion };
    let answer = world.service().schedule_key_deletion(&world.caller, &deletion).unwrap();
    assert_eq!(answer.mounts, [mount.report(3, vec![lacking()])]);
}

#[test]
fn mounts_are_drained_before_and_cut_after_the_state_is_published() {
    let world = World::new();
    let key = world.key();
    let mount = Arc::new(Recorder::new(&world, &key, "/m"));
    let guard = world.service().watch(mount.clone());
    let answer = world.service().disable_key(&world.caller, &named(&key)).unwrap();
    assert_eq!(answer.mounts, [mount.report(3, vec![lacking()])]);
    // Changes nothing, so nobody is told.
    world.service().disable_key(&world.caller, &named(&key)).unwrap();
    world.service().enable_key(&world.caller, &named(&key)).unwrap();
    let expected = [
        ("drain", KeyState::Enabled, true),
        ("cut", KeyState::Disabled, false),
        ("restore", KeyState::Enabled, true),
    ];
    assert_eq!(*mount.seen.lock(), expected);
    drop(guard);
    assert_eq!(world.service().watchers(), 0);
    world.service().disable_key(&world.caller, &named(&key)).unwrap();
    assert_eq!(mount.seen.lock().len(), 3);
}

#[test]
fn a_caller_from_the_network_is_not_told_of_mounts() {
    let world = World::new();
    let key = world.key();
    let mount = Arc::new(Recorder::new(&world, &key, "/m"));
    let _guard = world.service().watch(mount.clone());
    let remote = Remote {
        user: "root".to_owned(),
        access_key_id: "AK".to_owned(),
        address: std::net::IpAddr::from([127, 0, 0, 1]),
        secure: true,
    };
    let remote = Caller { remote: Some(remote), ..world.caller.clone() };
    let answer = world.service().disable_key(&remote, &named(&key)).unwrap();
    assert_eq!((answer.key_state, answer.mounts), (KeyState::Disabled, Vec::new()));
    assert_eq!(mount.seen.lock().len(), 2, "but the mounts are");
}

#[test]
fn mounts_follow_imported_material_as_it_goes_and_comes_back() {
    use super::imports::until;
    let world = World::new();
    let key = world.external(crate::kms::spec::KeySpec::SymmetricDefault);
    let request = world.request(&key, &[7; 32]);
    world.import(&request).unwrap();
    let mount = Arc::new(Recorder::new(&world, &key, "/m"));
    let _guard = world.service().watch(mount.clone());
    let told = |expected: &[(&'static str, KeyState, bool)]| {
        assert_eq!(std::mem::take(&mut *mount.seen.lock()), expected);
    };
    let cut = ("cut", KeyState::PendingImport, false);
    let back = ("restore", KeyState::Enabled, true);
    let answer = world.delete_material(&key).unwrap();
    assert_eq!((answer.mounts.len(), answer.mounts[0].files), (1, 3));
    told(&[("drain", KeyState::Enabled, true), cut]);
    // Nothing more to delete, so nobody is told.
    world.delete_material(&key).unwrap();
    told(&[]);
    let hour = jiff::SignedDuration::from_hours(1);
    world.import(&until(&request, world.clock.now() + hour)).unwrap();
    told(&[back]);
    world.clock.advance(hour);
    world.service().tick();
    // Its time is over, so nothing is unwrapped while mounts write back what they hold.
    told(&[("drain", KeyState::Enabled, false), cut]);
    world.import(&request).unwrap();
    told(&[back]);
}

#[test]
fn the_state_is_durable_before_the_cut() {
    let world = World::new();
    let key = world.key();
    let mount = Arc::new(Recorder::new(&world, &key, "/m"));
    let _guard = world.service().watch(mount.clone());
    world.service().store.fail_commits.store(true, Ordering::SeqCst);
    let error = world.service().disable_key(&world.caller, &named(&key)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(
        *mount.seen.lock(),
        [("drain", KeyState::Enabled, true), ("restore", KeyState::Enabled, true)]
    );
    world.service().store.fail_commits.store(false, Ordering::SeqCst);
    world.service().disable_key(&world.caller, &named(&key)).unwrap();
    assert_eq!(mount.seen.lock().last(), Some(&("cut", KeyState::Disabled, false)));
}

#[test]
fn a_silent_mount_is_named_and_does_not_hold_the_others_up() {
    let mut world = World::new();
    Arc::get_mut(world.service.as_mut().unwrap()).unwrap().drain_budget = Duration::from_millis(200);
    let key = world.key();
    let silent =
        Arc::new(Recorder { sleep: Duration::from_secs(3), ..Recorder::new(&world, &key, "/silent") });
    let prompt = Arc::new(Recorder::new(&world, &key, "/prompt"));
    let _guards = [world.service().watch(silent), world.service().watch(prompt)];
    let start = Instant::now();
    let request = ScheduleKeyDeletionRequest {
        key_id: key.arn.clone(),
        pending_window_in_days: None,
        stop_if_unwritten: false,
    };
    let answer = world.service().schedule_key_deletion(&world.caller, &request).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    let unreachable: Vec<_> =
        answer.mounts.iter().map(|report| (&*report.mount, report.unreachable)).collect();
    assert_eq!(unreachable, [("/silent", true), ("/prompt", false)]);
    assert_eq!(world.state(&key), KeyState::PendingDeletion);
}

#[test]
fn data_keys_of_other_keys_flow_while_a_key_is_drained() {
    let world = World::new();
    let (key, other) = (world.key(), world.key());
    let slow = Arc::new(Recorder { sleep: Duration::from_millis(300), ..Recorder::new(&world, &key, "/m") });
    let _guard = world.service().watch(slow.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| world.service().disable_key(&world.caller, &named(&key)).unwrap());
        while slow.seen.lock().is_empty() {
            std::thread::yield_now();
        }
        let start = Instant::now();
        world.service().generate_data_key(&world.caller, &other.arn, &context()).unwrap();
        world.service().rotate_key_on_demand(&world.caller, &named(&other)).unwrap();
        assert!(start.elapsed() < Duration::from_millis(250));
        assert_eq!(world.state(&key), KeyState::Enabled, "the drain was over too early for this test");
    });
    assert_eq!(world.state(&key), KeyState::Disabled);
}

#[test]
fn opposite_changes_at_once_leave_mounts_and_state_in_step() {
    let world = World::new();
    let key = world.key();
    let mount = Arc::new(Recorder::new(&world, &key, "/m"));
    let _guard = world.service().watch(mount.clone());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (world, key) = (&world, &key);
            scope.spawn(move || {
                for _ in 0..10 {
                    let _ = match thread % 2 {
                        0 => world.service().disable_key(&world.caller, &named(key)),
                        _ => world.service().enable_key(&world.caller, &named(key)),
                    };
                }
            });
        }
    });
    let seen = mount.seen.lock();
    for event in seen.iter() {
        let expected = match event.0 {
            "cut" => (KeyState::Disabled, false),
            _ => (KeyState::Enabled, true),
        };
        assert_eq!((event.1, event.2), expected);
    }
    let last = if world.state(&key) == KeyState::Enabled { "restore" } else { "cut" };
    assert!(seen.last().is_none_or(|event| event.0 == last));
}

#[test]
fn a_mount_that_comes_back_is_brought_up_to_date() {
    let world = World::new();
    let (disabled, enabled) = (world.key(), world.key());
    let holds = vec![disabled.arn.clone(), enabled.arn, "nonsense".to_owned()];
    let mount = Arc::new(Recorder { holds, ..Recorder::new(&world, &disabled, "/m") });
    world.service().disable_key(&world.caller, &named(&disabled)).unwrap();
    let _guard = world.service().watch(mount.clone());
    let deadline = Instant::now() + Duration::from_secs(10);
    while mount.seen.lock().len() < 2 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let mut told: Vec<_> = mount.seen.lock().iter().map(|event| (event.0, event.1)).collect();
    told.sort_by_key(|event| event.0);
    assert_eq!(told, [("cut", KeyState::Disabled), ("restore", KeyState::Enabled)]);
}
