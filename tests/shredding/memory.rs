//! The memory of a process that has a key store open: it holds imported material until that is
//! destroyed, and not a byte of it afterwards.
//!
//! The material is wrapped here, so the other process has never seen it but in the service.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use kmsfs::clock::ManualClock;
use kmsfs::kms::api::{
    CreateKeyRequest, ExpirationModel, GetParametersForImportRequest, ImportKeyMaterialRequest, KeyRequest,
    ScheduleKeyDeletionRequest,
};
use kmsfs::kms::material::{WrappingAlgorithm, wrap_for_import};
use kmsfs::kms::{Caller, Costs, EncryptionContext, Service, StoreOptions, UnlockSecret};
use kmsfs::secret::Passphrase;

use crate::common::child::{Child, listen, say};
use crate::common::{World, wait_until};
use crate::serving::Serving;
use crate::{dir_contains, sealed_material};

const ALGORITHM: WrappingAlgorithm = WrappingAlgorithm::RsaAesKeyWrapSha256;

/// Whether a process has the bytes anywhere in its memory.
fn memory_contains(pid: u32, bytes: &[u8]) -> bool {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut looked_at = 0;
    let found = maps.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next().unwrap(), words.next().unwrap());
        // What is only read came from files that this test did not write.
        if !access.starts_with("rw") {
            return false;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut region = vec![0; (end - start) as usize];
        // A guard page or a device cannot be read.
        if memory.read_exact_at(&mut region, start).is_err() {
            return false;
        }
        looked_at += region.len();
        crate::contains(&region, bytes)
    });
    assert!(found || looked_at > 1 << 20, "only {looked_at} bytes of process {pid} could be read");
    found
}

fn fresh_material() -> [u8; 32] {
    let mut material = [0; 32];
    getrandom::fill(&mut material).unwrap();
    material
}

/// In another process: a key store in a directory, and a key of it with imported material.
pub(crate) fn key_service(dir: &Path) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()));
    let options =
        StoreOptions { costs: Costs { memory_kib: 32, passes: 1, lanes: 1 }, ..StoreOptions::default() };
    let secret = || UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()));
    let service = Service::create(dir, &secret(), &options, clock.clone()).unwrap();
    let caller = Caller::current();
    let create = CreateKeyRequest { origin: Some("EXTERNAL".to_owned()), ..CreateKeyRequest::default() };
    let key = service.create_key(&caller, &create).unwrap();
    let key_id = key.key_id.to_string();
    let parameters = GetParametersForImportRequest {
        key_id: key_id.clone(),
        wrapping_algorithm: ALGORITHM.name().to_owned(),
        wrapping_key_spec: "RSA_2048".to_owned(),
    };
    let parameters = service.get_parameters_for_import(&caller, &parameters).unwrap();
    say(&HEXLOWER.encode(&parameters.public_key));
    let import = ImportKeyMaterialRequest {
        key_id: key_id.clone(),
        import_token: parameters.import_token,
        encrypted_key_material: HEXLOWER.decode(listen().as_bytes()).unwrap(),
        expiration_model: Some(ExpirationModel::DoesNotExpire),
        ..ImportKeyMaterialRequest::default()
    };
    service.import_key_material(&caller, &import).unwrap();
    // It is used, in every way that files use keys.
    let context = EncryptionContext::new();
    let made = service.generate_data_key(&caller, &key_id, &context).unwrap();
    service.decrypt_data_key(&caller, &made.blob, &context).unwrap();
    drop(service);
    say("closed");
    listen();
    let service = Service::open(dir, &secret(), clock.clone()).unwrap();
    service.decrypt_data_key(&caller, &made.blob, &context).unwrap();
    say("opened");
    listen();
    let request = ScheduleKeyDeletionRequest {
        key_id: key_id.clone(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    service.schedule_key_deletion(&caller, &request).unwrap();
    say("scheduled");
    listen();
    clock.advance(SignedDuration::from_hours(7 * 24));
    service.tick();
    service.deletion_receipt(&caller, &KeyRequest { key_id }).unwrap();
    say("deleted");
    // The process lives on, with its key store.
    listen();
    service.tick();
}

#[test]
fn after_the_window_neither_memory_nor_disk_has_imported_material() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.redb");
    let mut child = Child::start("key service", dir.path());
    let public_key = HEXLOWER.decode(child.hear().as_bytes()).unwrap();
    let material = fresh_material();
    let wrapped = wrap_for_import(ALGORITHM, &public_key, &material).unwrap();
    assert_eq!(child.ask(&HEXLOWER.encode(&wrapped)), "closed");
    let sealed = sealed_material(&file);
    assert_eq!(sealed.len(), 1);
    assert_eq!(child.ask("open"), "opened");
    let pid = child.pid();
    assert!(memory_contains(pid, &material), "it was there while it was used");
    assert!(memory_contains(pid, &sealed[0]) && dir_contains(dir.path(), &sealed[0]));
    // A second descriptor keeps what is the store's file now, whatever becomes of its name.
    let old = File::open(&file).unwrap();
    assert_eq!(child.ask("schedule"), "scheduled");
    assert!(memory_contains(pid, &material), "a deletion can be cancelled until its day");
    assert!(dir_contains(dir.path(), &sealed[0]));
    assert_eq!(child.ask("delete"), "deleted");
    assert!(!memory_contains(pid, &material), "memory has the material of a deleted key");
    assert!(!memory_contains(pid, &sealed[0]), "memory has the sealed material of a deleted key");
    assert!(!dir_contains(dir.path(), &sealed[0]), "a file has the sealed material of a deleted key");
    assert!(!dir_contains(dir.path(), &material));
    let mut bytes = vec![0; old.metadata().unwrap().len() as usize];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert!(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 0), "the old file was not overwritten");
    assert!(child.end().success());
}

#[test]
fn a_server_forgets_imported_material_that_is_deleted() {
    let serving = Serving::start(World::bare(), &[]);
    let (world, pid) = (&serving.world, serving.pid());
    world.run(&["key", "create", "--origin", "EXTERNAL", "--alias", "mine"]);
    let parameters = ["key", "import", "parameters", "alias/mine", "--wrapping-spec", "RSA_2048"];
    world.run(&[&parameters[..], &["--public-key", "public", "--token", "token"]].concat());
    let material = fresh_material();
    let public_key = fs::read(world.path("public")).unwrap();
    fs::write(world.path("wrapped"), wrap_for_import(ALGORITHM, &public_key, &material).unwrap()).unwrap();
    let import = ["key", "import", "material", "alias/mine", "--token", "token", "--encrypted", "wrapped"];
    world.run(&import);
    assert!(memory_contains(pid, &material));
    let old = File::open(world.path("keys/store.redb")).unwrap();
    world.run(&["key", "delete-material", "alias/mine", "--yes"]);
    assert!(!memory_contains(pid, &material), "the server has deleted material in its memory");
    // The file follows with the server's next tick.
    wait_until("the old file is overwritten", || {
        let mut bytes = vec![0; old.metadata().unwrap().len() as usize];
        old.read_exact_at(&mut bytes, 0).unwrap();
        bytes.iter().all(|byte| *byte == 0)
    });
    // The same material is taken again, and nothing else.
    let mut other = material;
    other[0] ^= 1;
    fs::write(world.path("other"), other).unwrap();
    assert_ne!(world.try_run(&["key", "import", "file", "alias/mine", "other"]).code, 0);
    fs::write(world.path("same"), material).unwrap();
    world.run(&["key", "import", "file", "alias/mine", "same"]);
}
