//! Crashes of the machine under a key store that is in use. Whatever a crash leaves, the store
//! opens with its secrets; what was acknowledged is there, exactly; what was under way is there
//! wholly or not at all; every data key that was handed out can be unwrapped, from the store and
//! from the backup that is kept; no id is used twice; and the store works on.
//!
//! `KMSFS_CRASH_SEED` repeats a run, `KMSFS_CRASH_STATES` says how many random states to look at.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod memory_disk;
mod xks_proxy;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use jiff::{SignedDuration, Timestamp};
use kmsfs::clock::{Clock, ManualClock};
use kmsfs::kms::api::{
    AliasRequest, CreateAccessKeyRequest, CreateCustomKeyStoreRequest, CreateGrantRequest, CreateKeyRequest,
    CustomKeyStoreRequest, DeleteAccessKeyRequest, DeleteAliasRequest, DeleteImportedKeyMaterialRequest,
    DescribeCustomKeyStoresRequest, EnableKeyRotationRequest, ExpirationModel, GetParametersForImportRequest,
    ImportKeyMaterialRequest, ImportResponse, KeyRequest, ListGrantsRequest, NoteVolumeRequest,
    PutKeyPolicyRequest, RetireKeyVersionRequest, RevokeGrantRequest, ScheduleKeyDeletionRequest, Tag,
    TagResourceRequest, UntagResourceRequest, UpdateAccessKeyRequest, UpdateKeyDescriptionRequest,
    XksProxyAuthenticationCredential,
};
use kmsfs::kms::material::{WrappingAlgorithm, wrap_for_import};
use kmsfs::kms::policy::default_policy;
use kmsfs::kms::store_api::{BackUpStoreRequest, CheckStoreRequest, KeepBackupRequest};
use kmsfs::kms::{
    Blob, Caller, Costs, EncryptionContext, ErrorKind, KeyId, KeyManager, KeyState, KmsError, Service,
    StoreError, VolumeFiles, restore,
};
use memory_disk::history::{Dice, History, Survives};
use memory_disk::place::{Place, View, secret, view};
use memory_disk::{MemoryDisk, Tree};
use xks_proxy::{ACCESS_KEY_ID, Proxy, SECRET};

/// Operations in a workload.
const OPERATIONS: usize = 60;
/// Random states unless the environment says otherwise: what fits into the time of a test run.
const STATES: usize = 1500;
const BACKUP: &str = "/elsewhere/backup";

#[test]
fn whatever_a_crash_leaves_the_store_opens_with_all_that_was_acknowledged() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = from_environment("KMSFS_CRASH_SEED").unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    let states = from_environment("KMSFS_CRASH_STATES").map_or(STATES, |count| count as usize);
    eprintln!("KMSFS_CRASH_SEED={seed}");
    // Every workload has so many random states; more states are more workloads.
    let workloads = states.div_ceil(STATES / 2).max(1);
    let mut looked_at = 0;
    for workload in 0..workloads as u64 {
        let run = Run::new(seed.wrapping_add(workload));
        looked_at += run.look_at_all(states / workloads);
    }
    eprintln!("{looked_at} states");
}

/// Id of some access key, or of none when there are none.
fn access_key(random: &mut Dice, service: &Service, caller: &Caller) -> String {
    let keys = service.list_access_keys(caller).unwrap().access_keys;
    keys.get(random.below(keys.len())).map(|key| key.access_key_id.clone()).unwrap_or_default()
}

/// The proxy of all custom key stores.
static PROXY: LazyLock<Proxy> = LazyLock::new(Proxy::timeless);

fn custom_key_store(name: &str) -> CreateCustomKeyStoreRequest {
    CreateCustomKeyStoreRequest {
        custom_key_store_name: name.to_owned(),
        custom_key_store_type: Some("EXTERNAL_KEY_STORE".to_owned()),
        xks_proxy_uri_endpoint: Some(PROXY.endpoint.clone()),
        xks_proxy_uri_path: Some(format!("/tests-{name}/kms/xks/v1")),
        xks_proxy_authentication_credential: Some(XksProxyAuthenticationCredential {
            access_key_id: ACCESS_KEY_ID.to_owned(),
            raw_secret_access_key: SECRET.to_owned().into(),
        }),
        xks_proxy_connectivity: Some("PUBLIC_ENDPOINT".to_owned()),
        trust_anchor_certificate: None,
    }
}

/// A moment at which an operation was acknowledged.
struct Acknowledged {
    moment: usize,
    /// The time at which the next operation began.
    time: Timestamp,
    /// `None` before the store was created.
    view: Option<View>,
}

/// A data key that was handed out.
struct HandedOut {
    moment: usize,
    blob: Vec<u8>,
    key: KeyId,
    plaintext: [u8; 32],
}

struct Run {
    seed: u64,
    disk: MemoryDisk,
    /// The directory that the store believes to be in; every state gets the same.
    place: Place,
    history: Vec<Acknowledged>,
    handed_out: Vec<HandedOut>,
    /// Every key there ever was.
    keys: Vec<KeyId>,
    /// Of every operation, what it was.
    operations: Vec<String>,
    /// The moment at which the operation under way began.
    started: usize,
    /// Versions of keys that were retired, and when that began.
    retired: Vec<(usize, KeyId, u32)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = MemoryDisk::default();
        let place = Place::new(disk.clone(), Timestamp::from_second(1_700_000_000).unwrap());
        let mut run = Self {
            seed,
            disk,
            history: vec![Acknowledged { moment: 0, time: place.clock.now(), view: None }],
            place,
            handed_out: Vec::new(),
            keys: Vec::new(),
            operations: vec!["create the store".to_owned()],
            started: 0,
            retired: Vec::new(),
        };
        let mut random = Dice::new(seed);
        let mut service = run.place.create();
        run.acknowledge(&service);
        for _ in 0..OPERATIONS {
            let operation = if random.chance(1, 12) {
                // The store is given up before it is opened again.
                drop(service);
                service = run.place.open(0);
                "close and open".to_owned()
            } else {
                run.operate(&mut random, &service)
            };
            run.operations.push(operation);
            run.acknowledge(&service);
            run.hand_out(&mut random, &service);
        }
        drop(service);
        // Every key was created without a view that knows of it yet.
        for entry in &mut run.history {
            let Some(view) = &mut entry.view else { continue };
            for key in &run.keys {
                view.keys.entry(*key).or_insert_with(|| "none".to_owned());
            }
        }
        run
    }

    /// One random operation, which may be refused; answers what it was.
    fn operate(&mut self, random: &mut Dice, service: &Service) -> String {
        self.started = self.disk.moment();
        let caller = &self.place.caller.clone();
        let key = self.keys.get(random.below(self.keys.len())).copied();
        let name = || key.map(|key| key.to_string()).unwrap_or_default();
        let request = KeyRequest { key_id: name() };
        let alias = format!("alias/a{}", random.below(4));
        let to_alias = AliasRequest { alias_name: alias.clone(), target_key_id: name() };
        match random.below(45) {
            0..4 => {
                let internal = random.chance(1, 3);
                let manager = if internal { KeyManager::Internal } else { KeyManager::Customer };
                let description = "x".repeat(random.below(3000));
                let origin = (!internal && random.chance(1, 3)).then(|| "EXTERNAL".to_owned());
                let request =
                    CreateKeyRequest { description, manager, origin, ..CreateKeyRequest::default() };
                let made = service.create_key(caller, &request);
                self.keys.push(made.unwrap().key_id);
                "create a key".to_owned()
            }
            4..8 => format!("rotate: {}", service.rotate_key_on_demand(caller, &request).is_ok()),
            8..10 => format!("disable: {}", service.disable_key(caller, &request).is_ok()),
            10..12 => format!("enable: {}", service.enable_key(caller, &request).is_ok()),
            12 => {
                let request = ScheduleKeyDeletionRequest {
                    key_id: name(),
                    pending_window_in_days: Some(7),
                    stop_if_unwritten: false,
                };
                format!("schedule deletion: {}", service.schedule_key_deletion(caller, &request).is_ok())
            }
            13 => format!("cancel deletion: {}", service.cancel_key_deletion(caller, &request).is_ok()),
            14 => {
                self.place.clock.advance(SignedDuration::from_hours(24 * 3));
                self.history.last_mut().unwrap().time = self.place.clock.now();
                service.tick();
                "three days pass".to_owned()
            }
            15 => format!("create an alias: {}", service.create_alias(caller, &to_alias).is_ok()),
            16 => format!("update an alias: {}", service.update_alias(caller, &to_alias).is_ok()),
            17 => {
                let request = DeleteAliasRequest { alias_name: alias };
                format!("delete an alias: {}", service.delete_alias(caller, &request).is_ok())
            }
            18 => {
                let slots = service.slots().unwrap();
                if slots.len() < 4 {
                    // The secret depends on the number, which is one more than any before.
                    let number = self.next_slot();
                    assert_eq!(service.add_slot(&secret(number), Costs::default()).unwrap(), number);
                    "add a slot".to_owned()
                } else {
                    service.remove_slot(slots[1].id).unwrap();
                    "remove a slot".to_owned()
                }
            }
            19 => {
                let slots = service.slots().unwrap();
                // The last one, whose number must not come again.
                let last = slots.last().unwrap().id;
                format!("remove a slot: {}", last > 0 && service.remove_slot(last).is_ok())
            }
            20 => {
                let path = random.chance(2, 3).then(|| PathBuf::from(BACKUP));
                service.keep_backup(caller, &KeepBackupRequest { path: path.clone(), force: false }).unwrap();
                format!("keep a backup: {}", path.is_some())
            }
            21 => {
                let tags = vec![Tag { tag_key: format!("t{}", random.below(3)), tag_value: "v".to_owned() }];
                let request = TagResourceRequest { key_id: name(), tags };
                format!("tag: {}", service.tag_resource(caller, &request).is_ok())
            }
            22 => {
                let tag_keys = vec![format!("t{}", random.below(3))];
                let request = UntagResourceRequest { key_id: name(), tag_keys };
                format!("untag: {}", service.untag_resource(caller, &request).is_ok())
            }
            23 => {
                // Another Id each time, and the caller keeps everything.
                let policy = default_policy("000000000000")
                    .replace("key-default-1", &format!("policy-{}", random.below(1000)));
                let request = PutKeyPolicyRequest { key_id: name(), policy, ..Default::default() };
                format!("put a policy: {}", service.put_key_policy(caller, &request).is_ok())
            }
            24 => {
                let request = CreateGrantRequest {
                    key_id: name(),
                    grantee_principal: Some("arn:aws:iam::000000000000:user/a".to_owned()),
                    operations: vec!["Decrypt".to_owned()],
                    ..Default::default()
                };
                format!("grant: {}", service.create_grant(caller, &request).is_ok())
            }
            25 => {
                let request = ListGrantsRequest { key_id: name(), ..Default::default() };
                let grants = service.list_grants(caller, &request).map(|listed| listed.grants);
                let Some(grant) = grants.ok().and_then(|mut grants| grants.pop()) else {
                    return "nothing to revoke".to_owned();
                };
                let request = RevokeGrantRequest { key_id: name(), grant_id: grant.grant_id, dry_run: false };
                format!("revoke: {}", service.revoke_grant(caller, &request).is_ok())
            }
            26 => {
                let request = CreateAccessKeyRequest {
                    user_name: format!("user{}", random.below(3)),
                    ..CreateAccessKeyRequest::default()
                };
                format!("create an access key: {}", service.create_access_key(caller, &request).is_ok())
            }
            27 => {
                let status = if random.chance(1, 2) { "Active" } else { "Inactive" }.to_owned();
                let request =
                    UpdateAccessKeyRequest { access_key_id: access_key(random, service, caller), status };
                format!("update an access key: {}", service.update_access_key(caller, &request).is_ok())
            }
            28 => {
                let request = DeleteAccessKeyRequest { access_key_id: access_key(random, service, caller) };
                format!("delete an access key: {}", service.delete_access_key(caller, &request).is_ok())
            }
            29 => {
                let request = EnableKeyRotationRequest { key_id: name(), rotation_period_in_days: Some(90) };
                format!("rotate by the clock: {}", service.enable_key_rotation(caller, &request).is_ok())
            }
            30 => format!("rotate no more: {}", service.disable_key_rotation(caller, &request).is_ok()),
            31 => {
                let description = "y".repeat(random.below(3000));
                let request = UpdateKeyDescriptionRequest { key_id: name(), description };
                format!("describe anew: {}", service.update_key_description(caller, &request).is_ok())
            }
            32..34 => {
                let days = random.chance(1, 2).then_some(2);
                format!("import: {}", self.import(service, &name(), days).is_ok())
            }
            34 => {
                let request = DeleteImportedKeyMaterialRequest {
                    key_id: name(),
                    key_material_id: None,
                    stop_if_unwritten: false,
                };
                let deleted = service.delete_imported_key_material(caller, &request).is_ok();
                format!("delete imported material: {deleted}")
            }
            35..41 => self.operate_outside(random, service),
            41 => {
                let listed = service.list_volumes().unwrap().volumes;
                let Some(volume) = listed.get(random.below(listed.len())) else {
                    return "no volume to note".to_owned();
                };
                let request = NoteVolumeRequest {
                    volume_id: volume.volume_id.clone(),
                    path: format!("/volume{}", random.below(9)),
                    open: random.chance(1, 3),
                    files: VolumeFiles { certain: true, ..VolumeFiles::default() },
                };
                format!("note a volume: {}", service.note_volume(caller, &request).is_ok())
            }
            42 => {
                // A volume's own key.
                let request = CreateKeyRequest {
                    description: format!("kmsfs volume {}", random.below(5)),
                    manager: KeyManager::Internal,
                    ..CreateKeyRequest::default()
                };
                self.keys.push(service.create_key(caller, &request).unwrap().key_id);
                "make a volume".to_owned()
            }
            43 => {
                let leave_out = service.list_volumes().unwrap().volumes;
                let leave_out: Vec<String> = leave_out.into_iter().map(|known| known.volume_id).collect();
                let key_version = 1 + random.below(2) as u32;
                let request = RetireKeyVersionRequest { key_id: name(), key_version, leave_out };
                let retired = service.retire_key_version(caller, &request).is_ok();
                if let Some(key) = key.filter(|_| retired) {
                    self.retired.push((self.started, key, key_version));
                }
                format!("retire a version: {retired}")
            }
            _ => {
                let request = BackUpStoreRequest { path: PathBuf::from("/elsewhere/other"), force: true };
                service.back_up(caller, &request).unwrap();
                "back up".to_owned()
            }
        }
    }

    /// One random operation on custom key stores or a key in one, which may be refused.
    fn operate_outside(&mut self, random: &mut Dice, service: &Service) -> String {
        let caller = &self.place.caller.clone();
        let known =
            service.describe_custom_key_stores(caller, &DescribeCustomKeyStoresRequest::default()).unwrap();
        let known = known.custom_key_stores.get(random.below(known.custom_key_stores.len()));
        let Some(store) = known.map(|store| store.custom_key_store_id.clone()) else {
            service.create_custom_key_store(caller, &custom_key_store("first")).unwrap();
            return "create the first custom key store".to_owned();
        };
        let request = CustomKeyStoreRequest { custom_key_store_id: store.clone() };
        match random.below(9) {
            0..2 => {
                let name = format!("store-{}", random.below(3));
                let made = service.create_custom_key_store(caller, &custom_key_store(&name));
                format!("create a custom key store: {}", made.is_ok())
            }
            2..5 => format!("connect: {}", service.connect_custom_key_store(caller, &request).is_ok()),
            5 => format!("disconnect: {}", service.disconnect_custom_key_store(caller, &request).is_ok()),
            6 => format!("delete a store: {}", service.delete_custom_key_store(caller, &request).is_ok()),
            _ => {
                // A key of the key manager stands for one key of the custom key store.
                let external = format!("key-{}-{}", self.seed, self.keys.len());
                PROXY.key(&external, |_| {});
                let request = CreateKeyRequest {
                    origin: Some("EXTERNAL_KEY_STORE".to_owned()),
                    custom_key_store_id: Some(store),
                    xks_key_id: Some(external),
                    ..CreateKeyRequest::default()
                };
                let made = service.create_key(caller, &request);
                self.keys.extend(made.as_ref().ok().map(|key| key.key_id));
                format!("create a key outside: {}", made.is_ok())
            }
        }
    }

    /// Imports what is always the same material for one key.
    fn import(&self, service: &Service, key: &str, days: Option<i64>) -> Result<ImportResponse, KmsError> {
        let algorithm = WrappingAlgorithm::RsaesOaepSha256;
        let parameters = service.get_parameters_for_import(
            &self.place.caller,
            &GetParametersForImportRequest {
                key_id: key.to_owned(),
                wrapping_algorithm: algorithm.name().to_owned(),
                wrapping_key_spec: "RSA_2048".to_owned(),
            },
        )?;
        let material = &key.as_bytes()[..32];
        let model = if days.is_some() { ExpirationModel::Expires } else { ExpirationModel::DoesNotExpire };
        let request = ImportKeyMaterialRequest {
            key_id: key.to_owned(),
            import_token: parameters.import_token,
            encrypted_key_material: wrap_for_import(algorithm, &parameters.public_key, material).unwrap(),
            valid_to: days.map(|days| self.place.clock.now() + SignedDuration::from_hours(24 * days)),
            expiration_model: Some(model),
            ..ImportKeyMaterialRequest::default()
        };
        service.import_key_material(&self.place.caller, &request)
    }

    fn next_slot(&self) -> u32 {
        let seen = self.history.iter().filter_map(|entry| entry.view.as_ref());
        seen.flat_map(|view| view.slots.iter().copied()).max().unwrap() + 1
    }

    fn acknowledge(&mut self, service: &Service) {
        let view = view(service, &self.place.caller, &self.keys);
        self.history.push(Acknowledged {
            moment: self.disk.moment(),
            time: self.place.clock.now(),
            view: Some(view),
        });
    }

    fn hand_out(&mut self, random: &mut Dice, service: &Service) {
        let Some(key) = self.keys.get(random.below(self.keys.len())).copied() else { return };
        let made = service.generate_data_key(&self.place.caller, &key.to_string(), &EncryptionContext::new());
        if let Ok(made) = made {
            let (moment, plaintext) = (self.disk.moment(), *made.plaintext.expose());
            self.handed_out.push(HandedOut { moment, blob: made.blob, key, plaintext });
        }
    }

    /// Looks at every prefix of the history, once with and once without what was not synced, and
    /// at `count` random states.
    fn look_at_all(&self, count: usize) -> usize {
        let mut random = Dice::new(self.seed ^ 0x5eed);
        let mut moments: Vec<usize> = (0..count).map(|_| random.below(self.disk.moment() + 1)).collect();
        moments.sort_unstable();
        let mut random_moments = moments.into_iter().peekable();
        let mut history = History::of(&self.disk, Tree::default());
        let mut looked_at = 0;
        for moment in 0..=self.disk.moment() {
            history.advance(moment);
            self.look_at(moment, "all", history.crash(Survives::Everything));
            self.look_at(moment, "synced", history.crash(Survives::Nothing));
            looked_at += 2;
            while random_moments.next_if_eq(&moment).is_some() {
                let choice = random.next();
                let tree = history.crash(Survives::Some(&mut Dice::new(choice)));
                self.look_at(moment, &choice.to_string(), tree);
                looked_at += 1;
            }
        }
        looked_at
    }

    /// Checks one state; says which one it was if it is not as it should be.
    fn look_at(&self, moment: usize, which: &str, tree: Tree) {
        let last = self.history.iter().rposition(|entry| entry.moment <= moment).unwrap();
        if let Err(panic) =
            catch_unwind(AssertUnwindSafe(|| self.check(moment, last, &MemoryDisk::new(tree))))
        {
            let operation = self.operations.get(last).map_or("the end", |operation| operation);
            eprintln!("KMSFS_CRASH_SEED={} moment {moment} ({which}) in '{operation}'", self.seed);
            std::panic::resume_unwind(panic);
        }
    }

    fn check(&self, moment: usize, last: usize, disk: &MemoryDisk) {
        let before = &self.history[last];
        let after = self.history.get(last + 1).unwrap_or(before);
        let place = Place {
            disk: disk.clone(),
            clock: Arc::new(ManualClock::new(before.time)),
            ..self.place.clone()
        };
        let service = match place.try_open(0) {
            Ok(service) => service,
            Err(StoreError::NotFound(_)) if before.view.is_none() => {
                // As if it had never been tried.
                drop(place.create());
                return drop(place.open(0));
            }
            Err(error) => panic!("does not open: {error}"),
        };
        let found = view(&service, &place.caller, &self.keys);
        if before.view.is_some() || after.view.as_ref() != Some(&found) {
            let known = [&before.view, &after.view].into_iter().flatten().any(|known| *known == found);
            assert!(
                known,
                "neither the state before nor after: {found:?}\n{:?}\n{:?}",
                before.view, after.view
            );
        }
        for deleted in &found.deleted {
            // Whoever opens the store scrubs it.
            service.deletion_receipt(&place.caller, &KeyRequest { key_id: deleted.clone() }).unwrap();
        }
        self.check_handed_out(moment, &service, &place);
        // Opens every record of the store and of the backup that is kept.
        let checked = service.check_store(&CheckStoreRequest::default()).unwrap();
        assert_eq!(checked.backup, found.backup);
        if found.backup.is_some() {
            self.check_backup(moment, &place);
        }
        self.work_on(service, &place, &found);
    }

    /// Whether the version that wraps a data key had begun to be retired at a moment.
    fn may_be_retired(&self, moment: usize, data_key: &HandedOut) -> bool {
        let retired = self.retired.iter().filter(|(began, _, _)| *began <= moment);
        let version = Blob::parse(&data_key.blob).unwrap().head.version;
        retired.into_iter().any(|(_, key, retired)| (*key, *retired) == (data_key.key, version))
    }

    fn check_handed_out(&self, moment: usize, service: &Service, place: &Place) {
        for data_key in self.handed_out.iter().filter(|data_key| data_key.moment <= moment) {
            if self.may_be_retired(moment, data_key) {
                continue;
            }
            let opened = service.decrypt_data_key(&place.caller, &data_key.blob, &EncryptionContext::new());
            let described =
                service.describe_key(&place.caller, &KeyRequest { key_id: data_key.key.to_string() });
            match described.map(|key| key.key_state) {
                Ok(KeyState::Enabled) => assert_eq!(opened.unwrap().plaintext.expose(), &data_key.plaintext),
                Ok(KeyState::Disabled) => assert_eq!(opened.unwrap_err().kind(), ErrorKind::Disabled),
                Ok(_) => assert_eq!(opened.unwrap_err().kind(), ErrorKind::InvalidState),
                Err(_) => assert_eq!(opened.unwrap_err().kind(), ErrorKind::NotFound),
            }
        }
    }

    /// The backup restores every key that the store has, with every version that was used.
    fn check_backup(&self, moment: usize, place: &Place) {
        let other = Place { lock: Arc::new(tempfile::tempdir_in("/dev/shm").unwrap()), ..place.clone() };
        restore(&other.disk, Path::new(BACKUP), other.dir(), &secret(0), false).unwrap();
        let restored = other.open(0);
        for data_key in self.handed_out.iter().filter(|data_key| data_key.moment <= moment) {
            let request = KeyRequest { key_id: data_key.key.to_string() };
            if self.may_be_retired(moment, data_key) {
                continue;
            }
            // Destroyed keys are gone from here too, later at most.
            let Ok(key) = restored.describe_key(&place.caller, &request) else { continue };
            if key.key_manager != KeyManager::Internal && key.key_state != KeyState::Enabled {
                let _ = restored.cancel_key_deletion(&place.caller, &request);
                if let Some(store) = key.custom_key_store_id {
                    let store = CustomKeyStoreRequest { custom_key_store_id: store };
                    restored.connect_custom_key_store(&place.caller, &store).unwrap();
                }
                let state = restored.describe_key(&place.caller, &request).unwrap().key_state;
                if state == KeyState::PendingImport {
                    // Its material is elsewhere, with whoever imported it.
                    continue;
                }
                restored.enable_key(&place.caller, &request).unwrap();
            }
            let opened = restored.decrypt_data_key(&place.caller, &data_key.blob, &EncryptionContext::new());
            assert_eq!(opened.unwrap().plaintext.expose(), &data_key.plaintext);
        }
    }

    /// The store takes further operations, uses no number twice, and opens again.
    fn work_on(&self, service: Arc<Service>, place: &Place, found: &View) {
        let made = service.create_key(&place.caller, &CreateKeyRequest::default()).unwrap();
        assert!(!self.keys.contains(&made.key_id), "a key id was used twice");
        if found.slots.len() < 16 {
            let number = service.add_slot(&secret(u32::MAX), Costs::default()).unwrap();
            assert!(found.slots.iter().all(|slot| *slot < number), "slot number {number} was used twice");
            service.remove_slot(number).unwrap();
        }
        for key in &found.listed {
            let _ = service.rotate_key_on_demand(&place.caller, &KeyRequest { key_id: key.to_string() });
        }
        let keys: Vec<KeyId> = self.keys.iter().copied().chain([made.key_id]).collect();
        let after = view(&service, &place.caller, &keys);
        drop(service);
        // Every slot opens the store, not just the first.
        let reopened = place.open(*found.slots.last().unwrap());
        assert_eq!(view(&reopened, &place.caller, &keys), after);
    }
}
