//! Server and socket client together.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::clock::SystemClock;
use crate::kms::api::StatusResponse;
use crate::kms::wire::{self, Reply, Request};
use crate::kms::{
    Costs, CutReport, EncryptionContext, ErrorKind, KeyId, KeyState, KeyWatcher, MountStatus, StoreOptions,
    UnlockSecret, Unwritten,
};
use crate::provider::{Provider, ProviderError, SocketClient};
use crate::secret::Passphrase;

#[derive(Default)]
struct Mount {
    seen: Mutex<Vec<String>>,
}

impl KeyWatcher for Mount {
    fn describe(&self) -> MountStatus {
        MountStatus {
            mountpoint: "/m".to_owned(),
            open_files: BTreeMap::from([("arn".to_owned(), self.seen.lock().len() as u64)]),
            ..MountStatus::default()
        }
    }

    fn drain(&self, key: &KeyId, _: Duration, _keep: bool) -> CutReport {
        self.seen.lock().push(format!("drain {key}"));
        let unwritten =
            vec![Unwritten { file: "f".to_owned(), bytes: Some(1), lost: 0, error: "full".to_owned() }];
        CutReport { mount: "another name".to_owned(), unwritten, ..CutReport::default() }
    }

    fn cut(&self, key: &KeyId, state: Option<KeyState>) -> CutReport {
        self.seen.lock().push(format!("cut {key} {state:?}"));
        CutReport { files: 2, handles: 3, ..CutReport::default() }
    }

    fn restore(&self, key: &KeyId) {
        self.seen.lock().push(format!("restore {key}"));
    }

    fn lock(&self, _: Duration) -> CutReport {
        self.seen.lock().push("lock".to_owned());
        CutReport { files: 5, handles: 8, ..CutReport::default() }
    }

    fn unlock(&self) {
        self.seen.lock().push("unlock".to_owned());
    }
}

fn secret() -> UnlockSecret {
    UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()))
}

fn create(dir: &Path) -> Arc<Service> {
    let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
    let options = StoreOptions { costs, ..StoreOptions::default() };
    Service::create(dir, &secret(), &options, Arc::new(SystemClock)).unwrap()
}

fn create_key(client: &SocketClient) -> String {
    let created = client.call("TrentService.CreateKey", &json!({})).unwrap();
    created["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_ends_when_the_directory_of_its_socket_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(create(dir.path())).unwrap();
    // The accepting thread is waiting, as it does nearly always.
    thread::sleep(Duration::from_millis(20));
    std::fs::remove_dir_all(dir.path()).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    thread::spawn(move || {
        drop(server);
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(10)).expect("the server does not end");
}

#[test]
fn two_clients_share_keys_and_errors_arrive_typed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(create(dir.path())).unwrap();
    let (a, b) = (SocketClient::new(dir.path()), SocketClient::new(dir.path()));
    let key = create_key(&a);
    let context = EncryptionContext::new().with("a", "b");
    let made = a.generate_data_key(&key, &context).unwrap();
    let got = b.unwrap(&made.blob, &context).unwrap();
    assert_eq!(got.plaintext, made.plaintext);
    assert_eq!((&got.key_arn, got.key_version), (&made.key_arn, 1));
    assert_eq!(b.describe_key(&key).unwrap().arn, made.key_arn);
    assert_eq!(a.create_internal_key("volume").unwrap().description, "volume");
    let foreign = b.unwrap(&made.blob, &EncryptionContext::new());
    assert!(matches!(foreign, Err(ProviderError::InvalidCiphertext(_))));
    assert!(matches!(b.describe_key("alias/none"), Err(ProviderError::NotFound(_))));
    b.call("TrentService.DisableKey", &json!({"KeyId": key})).unwrap();
    assert!(matches!(a.unwrap(&made.blob, &context), Err(ProviderError::Disabled(_))));
    let status: StatusResponse = serde_json::from_value(a.call(wire::STATUS, &Value::Null).unwrap()).unwrap();
    assert_eq!((status.pid, status.unlocked), (std::process::id(), true));
    assert_eq!(status.keys, BTreeMap::from([("Disabled".to_owned(), 1)]));
    server.end();
    assert!(matches!(a.unwrap(&made.blob, &context), Err(ProviderError::Unavailable(_))));
    assert!(!dir.path().join("socket").exists());
}

#[test]
fn an_attached_mount_is_told_and_attached_again_after_the_service_returns() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(create(dir.path())).unwrap();
    let client = SocketClient::new(dir.path());
    let key = create_key(&client);
    let mount = Arc::new(Mount::default());
    let attachment = client.attach(mount.clone()).unwrap();
    assert_eq!(server.attached_mounts(), 1);

    let answer = client.call("TrentService.DisableKey", &json!({"KeyId": key})).unwrap();
    let report = json!([{
        "Mount": "/m", "Files": 2, "Handles": 3, "Unreachable": false,
        "Unwritten": [{"File": "f", "Bytes": 1, "Error": "full"}],
    }]);
    assert_eq!(answer["Mounts"], report);
    client.call("TrentService.EnableKey", &json!({"KeyId": key})).unwrap();
    let expected = [format!("drain {key}"), format!("cut {key} Some(Disabled)"), format!("restore {key}")];
    assert_eq!(*mount.seen.lock(), expected);
    let status = client.call(wire::STATUS, &Value::Null).unwrap();
    assert_eq!(status["Mounts"][0]["OpenFiles"]["arn"], json!(3), "described anew, not as it attached");

    server.end();
    let service = Service::open(dir.path(), &secret(), Arc::new(SystemClock)).unwrap();
    let server = Server::start(service).unwrap();
    until("attached again", || server.attached_mounts() == 1);
    assert_eq!(mount.seen.lock().len(), 3, "a lost service cuts nothing");
    // The idle connections of the client are of the old service.
    assert!(client.describe_key(&key).is_ok());
    drop(attachment);
    until("detached", || server.attached_mounts() == 0);
    let answer = client.call("TrentService.DisableKey", &json!({"KeyId": key})).unwrap();
    assert_eq!(answer["Mounts"], json!([]));
}

#[test]
fn attaching_to_nobody_fails_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let client = SocketClient::new(dir.path());
    let attached = client.attach(Arc::new(Mount::default()));
    assert!(matches!(attached.err(), Some(ProviderError::Unavailable(_))));
}

#[test]
fn a_stale_socket_is_replaced_and_a_long_path_works() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("d".repeat(60)).join("e".repeat(60));
    let service = create(&dir);
    std::fs::write(dir.join("socket"), b"left by a dead owner").unwrap();
    let _server = Server::start(service).unwrap();
    let client = SocketClient::new(&dir);
    assert_eq!(client.call(wire::STATUS, &Value::Null).unwrap()["Unlocked"], json!(true));
}

#[test]
fn malformed_frames_are_answered_and_end_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let _server = Server::start(create(dir.path())).unwrap();
    for bytes in [&[0xff, 0xff, 0xff, 0xff][..], b"\x02\0\0\0{]"] {
        let mut stream = socket::connect(dir.path(), Duration::from_secs(5)).unwrap();
        stream.write_all(bytes).unwrap();
        let reply: Reply = wire::read_frame(&mut stream).unwrap();
        assert_eq!(reply.into_result().unwrap_err().kind(), ErrorKind::Validation);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    let mut stream = socket::connect(dir.path(), Duration::from_secs(5)).unwrap();
    let request = Request { target: wire::ATTACH_MOUNT.to_owned(), body: json!(7), on_behalf: None };
    wire::write_frame(&mut stream, &request).unwrap();
    let reply: Reply = wire::read_frame(&mut stream).unwrap();
    assert_eq!(reply.status, 400);
}

#[test]
fn connections_are_bounded_and_ending_does_not_wait_for_idle_ones() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(create(dir.path())).unwrap();
    let connect = || socket::connect(dir.path(), Duration::from_secs(5)).unwrap();
    let idle: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
    until("all accepted", || server.shared.state.lock().connections.len() == MAX_CONNECTIONS);
    let reply: Reply = wire::read_frame(&mut connect()).unwrap();
    assert_eq!(reply.into_result().unwrap_err().kind(), ErrorKind::LimitExceeded);
    let start = Instant::now();
    server.end();
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(idle);
}

#[test]
fn frames_read_back_what_was_written() {
    let request = Request { target: "t".to_owned(), body: json!({"Plaintext": "AAAA"}), on_behalf: None };
    let mut bytes = Vec::new();
    wire::write_frame(&mut bytes, &request).unwrap();
    assert_eq!(wire::read_frame::<Request>(&mut &bytes[..]).unwrap(), request);
    for cut in 0..bytes.len() {
        assert!(wire::read_frame::<Request>(&mut &bytes[..cut]).is_err());
    }
    let long = "x".repeat(wire::MAX_FRAME);
    assert!(wire::write_frame(&mut Vec::new(), &long).is_err());
    let mut wiped = request;
    wire::wipe(&mut wiped.body);
    assert_eq!(wiped.body, json!({"Plaintext": ""}));
}

#[test]
fn a_suspend_that_nobody_announced_locks_the_store_where_that_is_wanted() {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::kms::store_api::{LockReason, SecretMessage, UnlockStoreRequest};

    let dir = tempfile::tempdir().unwrap();
    let service = create(dir.path());
    let slept = Arc::new(AtomicU64::new(60_000));
    let watch = |when| {
        let slept = Arc::clone(&slept);
        let asleep = move || Duration::from_millis(slept.load(Ordering::SeqCst));
        Vigil::start(Arc::clone(&service), when, asleep).unwrap()
    };
    let hour = Duration::from_secs(3600);
    let look_twice = Duration::from_millis(2500);
    let unwanted = watch(Vigilance { lock_after: Some(hour), on_suspend: false });
    slept.fetch_add(5000, Ordering::SeqCst);
    std::thread::sleep(look_twice);
    assert!(!service.is_locked());
    drop(unwanted);

    let _wanted = watch(Vigilance { lock_after: None, on_suspend: true });
    // The clocks are not read at the same moment.
    slept.fetch_add(100, Ordering::SeqCst);
    std::thread::sleep(look_twice);
    assert!(!service.is_locked(), "it slept before it was watched over");
    slept.fetch_add(5000, Ordering::SeqCst);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !service.is_locked() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(service.locked().unwrap().reason, LockReason::Suspend);
    let request = UnlockStoreRequest { secret: SecretMessage::from(&secret()) };
    service.unlock_store(&request).unwrap();
    std::thread::sleep(look_twice);
    assert!(!service.is_locked(), "one suspend locks once");
}
