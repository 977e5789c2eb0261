//! Files under a key whose other half a key manager elsewhere has, in a real mount, by the commands.

use std::fs;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::clock::SystemClock;
use serde_json::json;

use super::common::World;
use super::xks_proxy::{ACCESS_KEY_ID, Mood, PATH, Proxy, SECRET};

/// Within this an unanswered call is refused: its own second, and what a busy machine adds.
const IN_TIME: Duration = Duration::from_millis(2500);

fn errno(result: std::io::Result<impl Sized>) -> i32 {
    result.map(|_| ()).unwrap_err().raw_os_error().unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < IN_TIME, "{:?}", start.elapsed());
    result
}

/// A mounted volume whose directory `far` is under a key that stands for `one`.
fn mounted(world: &World, proxy: &Proxy) -> std::path::PathBuf {
    let configuration = json!({
        "XksProxyUriPath": PATH,
        "XksProxyAuthenticationCredential": { "AccessKeyId": ACCESS_KEY_ID, "RawSecretAccessKey": SECRET },
    });
    fs::write(world.path("proxy.json"), configuration.to_string()).unwrap();
    world.run(&["init", "volume"]);
    world.run(&["mount", "volume", "volume.mnt"]);
    let configuration = world.path("proxy.json");
    let endpoint = proxy.endpoint.as_str();
    let made = world.run(&[
        "custom-key-store",
        "create",
        "near",
        "--endpoint",
        endpoint,
        "--configuration",
        configuration.to_str().unwrap(),
    ]);
    assert!(made.starts_with("cks-"), "{made}");
    assert!(world.run(&["custom-key-store", "connect", "near"]).starts_with("CONNECTED cks-"));
    world.run(&[
        "key",
        "create",
        "--alias",
        "far",
        "--origin",
        "EXTERNAL_KEY_STORE",
        "--custom-key-store",
        "near",
        "--xks-key-id",
        "one",
    ]);
    let far = world.path("volume.mnt/far");
    fs::create_dir(&far).unwrap();
    world.run(&["key", "assign", "alias/far", far.to_str().unwrap()]);
    far
}

#[test]
fn files_come_and_go_with_the_connection() {
    let Some(world) = World::new("files_come_and_go_with_the_connection") else { return };
    let proxy = Proxy::start(Arc::new(SystemClock));
    let far = mounted(&world, &proxy);
    fs::write(far.join("file"), "far away").unwrap();
    let near = world.path("volume.mnt/near");
    fs::write(&near, "at hand").unwrap();
    assert_eq!(fs::read_to_string(far.join("file")).unwrap(), "far away");
    let mut open = fs::File::open(far.join("file")).unwrap();
    let mut contents = String::new();
    open.read_to_string(&mut contents).unwrap();
    let listed = world.run(&["custom-key-store", "describe"]);
    assert!(listed.contains("CONNECTED") && listed.contains(&proxy.endpoint), "{listed}");
    assert!(world.run(&["key", "describe", "alias/far"]).contains("one in cks-"));

    world.run(&["custom-key-store", "disconnect", "near"]);
    // In open files, of new ones, and through the whole tree; what is under other keys goes on.
    open.rewind().unwrap();
    assert_eq!(timed(|| errno(open.read(&mut [0; 8]))), libc::ENOKEY);
    assert_eq!(timed(|| errno(fs::read(far.join("file")))), libc::ENOKEY);
    assert_eq!(timed(|| errno(fs::write(far.join("new"), "x"))), libc::ENOKEY);
    assert_eq!(fs::read_to_string(&near).unwrap(), "at hand");
    fs::write(&near, "at hand, still").unwrap();
    assert!(world.run(&["key", "describe", "alias/far"]).contains("Unavailable"));
    world.try_run(&["custom-key-store", "disconnect", "near"]).fails(20, &["DISCONNECTED"]);
    world.try_run(&["custom-key-store", "delete", "near"]).fails(20, &["1 key"]);

    world.run(&["custom-key-store", "connect", "near"]);
    contents.clear();
    open.read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "far away");
    fs::write(far.join("new"), "x").unwrap();
}

#[test]
fn a_proxy_that_does_not_answer_holds_up_its_own_files_alone() {
    let Some(world) = World::new("a_proxy_that_does_not_answer_holds_up_its_own_files_alone") else { return };
    let proxy = Proxy::start(Arc::new(SystemClock));
    let far = mounted(&world, &proxy);
    let near = world.path("volume.mnt/near");
    fs::create_dir(&near).unwrap();
    for number in 0..20 {
        fs::write(far.join(number.to_string()), "far away").unwrap();
        fs::write(near.join(number.to_string()), "at hand").unwrap();
    }
    world.run(&["umount", "volume.mnt"]);
    // The key store is opened anew, and with nothing in any cache.
    world.run(&["mount", "volume", "volume.mnt"]);
    proxy.feel(Mood::Silent);
    std::thread::scope(|scope| {
        for number in 0..20 {
            let file = far.join(number.to_string());
            scope.spawn(move || assert_eq!(timed(|| errno(fs::read(&file))), libc::ENOKEY));
        }
        std::thread::sleep(Duration::from_millis(1200));
        for number in 0..20 {
            assert_eq!(read_at_once(&near.join(number.to_string())), "at hand");
        }
    });
    assert_eq!(timed(|| errno(fs::read(far.join("0")))), libc::ENOKEY);
    proxy.feel(Mood::Well);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(fs::read_to_string(far.join("0")).unwrap(), "far away");

    proxy.die();
    assert_eq!(timed(|| errno(fs::read(far.join("1")))), libc::ENOKEY);
    proxy.revive();
    assert_eq!(fs::read_to_string(far.join("1")).unwrap(), "far away");
}

fn read_at_once(file: &Path) -> String {
    let start = Instant::now();
    let contents = fs::read_to_string(file).unwrap();
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    contents
}

#[test]
fn the_commands_say_what_is_wrong_and_what_to_do() {
    let world = World::bare();
    world.run(&["init", "volume"]);
    let proxy = Proxy::start(Arc::new(SystemClock));
    fs::write(world.path("secret"), format!("{SECRET}\n")).unwrap();
    let secret = world.path("secret");
    let create = |name: &str, endpoint: &str, more: &[&str]| {
        let arguments = ["custom-key-store", "create", name, "--endpoint", endpoint];
        world.try_run(&[&arguments[..], more].concat())
    };
    let credential = ["--access-key-id", ACCESS_KEY_ID, "--secret-file", secret.to_str().unwrap()];
    create("near", &proxy.endpoint, &[]).fails(2, &["--configuration"]);
    create("near", "http://127.0.0.1:1", &[&["--path", PATH][..], &credential].concat())
        .fails(22, &["cannot communicate"]);
    create("near", &proxy.endpoint, &[&["--path", "/other/kms/xks/v1"][..], &credential].concat())
        .fails(22, &["invalid URI path"]);
    create("near", &proxy.endpoint, &[&["--path", PATH][..], &credential].concat()).ok();
    create("near", &proxy.endpoint, &[&["--path", PATH][..], &credential].concat()).fails(27, &["near"]);
    world.try_run(&["custom-key-store", "connect", "nobody"]).fails(19, &["custom key store"]);
    world
        .try_run(&[
            "key",
            "create",
            "--origin",
            "EXTERNAL_KEY_STORE",
            "--custom-key-store",
            "near",
            "--xks-key-id",
            "one",
        ])
        .fails(20, &["DISCONNECTED"]);
    proxy.feel(Mood::WithoutManagers);
    world.try_run(&["custom-key-store", "connect", "near"]).fails(22, &["XKS_PROXY_NOT_REACHABLE"]);
    let shown = world.json(&["custom-key-store", "describe", "near"]);
    assert_eq!(shown["ConnectionState"], "FAILED");
    assert!(!shown.to_string().contains(SECRET));
    proxy.feel(Mood::Well);
    world.run(&["custom-key-store", "disconnect", "near"]);
    world.run(&["custom-key-store", "update", "near", "--name", "far"]);
    world.run(&["custom-key-store", "connect", "far"]);
    world.run(&["custom-key-store", "disconnect", "far"]);
    world.run(&["custom-key-store", "delete", "far"]);
    assert_eq!(world.json(&["custom-key-store", "describe"])["CustomKeyStores"], json!([]));
}
