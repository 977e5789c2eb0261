//! `kmsfs serve` and `kmsfs access-key` as a person and a service manager use them. What clients over
//! the network make of it is in `tests/clients.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
#[path = "clients/serving.rs"]
mod serving;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use common::{World, wait_until};
use serving::Serving;

const USAGE: i32 = 2;
const NO_KEY_STORE: i32 = 14;
const NO_SUCH_KEY: i32 = 19;
const STORE_IN_USE: i32 = 22;

/// What an unsigned request for a page gets: status and body.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address.rsplit('/').next().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn what_cannot_be_served_is_refused_with_a_next_step() {
    let world = World::bare();
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let ran = world.try_run(&[&["serve"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    };
    refused(&[], NO_KEY_STORE, "there is no key store");
    assert!(!world.path("keys").exists(), "a mistyped path does not become a key store");
    refused(&["--create", "--region", "a_b"], USAGE, "the region must be");
    refused(&["--create", "--account", "12"], USAGE, "12 digits");
    refused(&["--listen", "0.0.0.0:0"], USAGE, "--tls-cert");
    refused(&["--listen", "[::]:0"], USAGE, "--tls-cert");
    refused(&["--listen", "nowhere"], USAGE, "--listen");
    refused(&["--tls-cert", "c.pem"], USAGE, "--tls-key");
    refused(&["--tls-cert", "c.pem", "--tls-key", "k.pem"], USAGE, "c.pem");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&["--listen", &address], STORE_IN_USE, "choose another port");
    world.run(&["init", "volume"]);
    refused(&["--region", "elsewhere"], USAGE, "is region local of account 000000000000, for ever");
    refused(&["--account", "000000000001"], USAGE, "leave out --region and --account");
}

#[test]
fn a_new_key_store_has_the_region_and_account_that_were_asked_for() {
    let serving = Serving::start(World::bare(), &["--region", "eu-kms-1", "--account", "123456789012"]);
    let keys = serving.world.json(&["key", "describe", "alias/default"]);
    assert!(keys["Arn"].as_str().unwrap().starts_with("arn:aws:kms:eu-kms-1:123456789012:key/"), "{keys}");
}

#[test]
fn while_it_serves_commands_are_its_clients_and_nobody_else_serves() {
    let serving = Serving::start(World::bare(), &[]);
    let world = &serving.world;
    assert!(crate::common::run(world.locked_command(&["key", "list"])).ok().stdout.contains("alias/default"));
    let second = world.try_run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, STORE_IN_USE, "{}", second.stderr);
    assert_eq!(get(&serving.endpoint, "/healthz"), (200, "ok\n".to_owned()));
    let (status, metrics) = get(&serving.endpoint, "/metrics");
    assert!(status == 200 && metrics.contains("kmsfs_keys{state=\"Enabled\"} 1\n"), "{metrics}");
    // With a second key the metrics follow.
    world.run(&["key", "create"]);
    assert!(get(&serving.endpoint, "/metrics").1.contains("kmsfs_keys{state=\"Enabled\"} 2\n"));
}

#[test]
fn access_keys_are_managed_from_the_command_line() {
    let serving = Serving::start(World::bare(), &[]);
    let world = &serving.world;
    std::fs::write(world.path("secret"), "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\nanother line\n").unwrap();
    let made = world.json(&[
        "access-key",
        "create",
        "--user",
        "ada",
        "--access-key-id",
        "AKIAIOSFODNN7EXAMPLE",
        "--secret-file",
        "secret",
    ]);
    assert_eq!(made["SecretAccessKey"], json!("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"));
    let status = |id: &str| {
        let listed = world.json(&["access-key", "list"]);
        let found =
            listed["AccessKeys"].as_array().unwrap().iter().find(|key| key["AccessKeyId"] == id).cloned();
        found.map(|key| key["Status"].as_str().unwrap().to_owned())
    };
    assert_eq!(status("AKIAIOSFODNN7EXAMPLE").as_deref(), Some("Active"));
    world.run(&["access-key", "disable", "AKIAIOSFODNN7EXAMPLE"]);
    assert_eq!(status("AKIAIOSFODNN7EXAMPLE").as_deref(), Some("Inactive"));
    world.run(&["access-key", "enable", "AKIAIOSFODNN7EXAMPLE"]);
    assert_eq!(status("AKIAIOSFODNN7EXAMPLE").as_deref(), Some("Active"));
    let listed = world.run(&["access-key", "list"]);
    assert!(listed.contains("ada") && !listed.contains("wJalr"), "{listed}");
    world.run(&["access-key", "delete", "AKIAIOSFODNN7EXAMPLE"]);
    assert_eq!(status("AKIAIOSFODNN7EXAMPLE"), None);
    let gone = world.try_run(&["access-key", "delete", "AKIAIOSFODNN7EXAMPLE"]);
    assert_eq!(gone.code, NO_SUCH_KEY, "{}", gone.stderr);
    // What is printed once for people has the secret in it.
    let made = world.run(&["access-key", "create", "--user", "ada"]);
    assert!(made.lines().any(|line| line.starts_with("secret access key  ")), "{made}");
}

#[test]
fn pages_have_their_own_address_if_one_is_given() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let serving = Serving::start(World::bare(), &["--metrics-listen", &free]);
    assert_eq!(get(&free, "/healthz").0, 200);
    assert_eq!(get(&serving.endpoint, "/healthz").0, 404);
}

#[test]
fn a_service_manager_passes_its_socket_and_hears_when_it_is_served() {
    let world = World::bare();
    world.run(&["init", "volume"]);
    let manager = UnixDatagram::bind(world.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // As systemd does it: the socket is descriptor 3, and the process is named.
    let served = world.command(&["serve"]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]);
    command.arg(served.get_program()).args(served.get_args()).current_dir(world.dir.path());
    command.env("NOTIFY_SOCKET", world.path("notify")).stdin(Stdio::from(OwnedFd::from(listener)));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let hears = |what: &str| {
        wait_until(what, || {
            let mut buffer = [0; 4096];
            let len = manager.recv(&mut buffer).unwrap();
            std::str::from_utf8(&buffer[..len]).unwrap().lines().any(|line| line == what)
        });
    };
    hears("READY=1");
    assert_eq!(get(&address, "/healthz"), (200, "ok\n".to_owned()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    hears("STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_a_service_manager_passes_must_be_a_listening_socket() {
    let world = World::bare();
    world.run(&["init", "volume"]);
    let served = world.command(&["serve"]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]);
    command.arg(served.get_program()).args(served.get_args()).current_dir(world.dir.path());
    let ran = common::run(command);
    assert!(ran.code == 1 && ran.stderr.contains("the service manager's sockets"), "{}", ran.stderr);
}
