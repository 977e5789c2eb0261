//! `kmsfs audit` on the log of a real key store.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use common::World;
use jiff::{SignedDuration, Timestamp};
use kmsfs::clock::{Clock, ManualClock};
use kmsfs::kms::{Caller, Costs, Service, StoreOptions, UnlockSecret, wire};
use kmsfs::secret::Passphrase;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn segments(world: &World) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(world.path("keys/audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn names(found: &Value) -> Vec<String> {
    let all = found.as_array().unwrap();
    all.iter().map(|event| event["eventName"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn calls_are_shown_searched_exported_and_verified() {
    let world = World::bare();
    world.try_run(&["init", "volume"]).ok();
    let key = world.try_run(&["key", "create", "--alias", "photos"]).ok().stdout.trim().to_owned();
    world.try_run(&["key", "disable", "alias/photos", "--yes"]).ok();
    world.try_run(&["key", "describe", "alias/none"]);

    let all = names(&world.json(&["audit", "query"]));
    assert_eq!(all[0], "StartAuditSegment");
    assert!(["CreateKey", "CreateAlias", "DisableKey"].iter().all(|name| all.iter().any(|own| own == name)));
    let of_key = names(&world.json(&["audit", "query", "--key", &key]));
    assert!(of_key.contains(&"DisableKey".to_owned()) && of_key.len() < all.len(), "{of_key:?}");
    assert_eq!(names(&world.json(&["audit", "query", "--event", "disablekey"])), ["DisableKey"]);
    let refused = world.json(&["audit", "query", "--error", "NotFound"]);
    assert!(refused.as_array().unwrap().iter().all(|event| event["errorCode"] == "NotFoundException"));
    assert!(names(&refused).contains(&"DescribeKey".to_owned()));
    assert_eq!(world.json(&["audit", "query", "--since", "1h", "--limit", "2"]).as_array().unwrap().len(), 2);
    assert!(names(&world.json(&["audit", "query", "--until", "1h"])).is_empty());
    assert!(names(&world.json(&["audit", "query", "--principal", "nobody-of-this-name"])).is_empty());

    let table = world.try_run(&["audit", "query", "--event", "DisableKey"]).ok().stdout;
    assert!(table.starts_with("TIME") && table.contains(&key), "{table}");
    let tail = world.try_run(&["audit", "tail", "-n", "3"]).ok().stdout;
    assert_eq!(tail.lines().count(), 3);
    let exported: Value =
        serde_json::from_str(&world.try_run(&["audit", "export", "--key", &key]).ok().stdout).unwrap();
    assert_eq!(exported["Records"].as_array().unwrap().len(), of_key.len());
    let nothing: Value =
        serde_json::from_str(&world.try_run(&["audit", "export", "--key", "none"]).ok().stdout).unwrap();
    assert_eq!(nothing["Records"], Value::Array(Vec::new()));

    let report = world.json(&["audit", "verify"]);
    assert_eq!((&report["Wrong"], &report["First"]), (&Value::from(0), &Value::from(1)));
    assert_eq!(report["Authenticated"], true);
}

#[test]
fn a_log_that_was_changed_is_found_out() {
    let world = World::bare();
    world.try_run(&["init", "volume"]).ok();
    world.try_run(&["key", "create"]).ok();
    let [segment] = &segments(&world)[..] else { panic!("more than one segment") };
    let text = fs::read_to_string(segment).unwrap();
    let archive = world.path("archive");
    fs::create_dir(&archive).unwrap();
    let copy = archive.join(segment.file_name().unwrap());
    fs::write(&copy, &text).unwrap();
    let copy = copy.to_str().unwrap();
    world.try_run(&["audit", "verify", copy]).ok();
    // In the middle, where recovery does not look when the log was closed. The line of the last
    // command is in it by now.
    let text = fs::read_to_string(segment).unwrap();
    fs::write(segment, text.replacen("\"CreateKey\"", "\"CreateKez\"", 1)).unwrap();
    let ran = world.try_run(&["audit", "verify"]);
    assert_eq!(ran.code, 32, "{ran:?}");
    assert!(ran.stdout.contains("edited"), "{ran:?}");
    // Cut off: the key store knows better.
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    fs::write(segment, lines[..lines.len() - 2].concat()).unwrap();
    let ran = world.try_run(&["audit", "verify"]);
    assert_eq!(ran.code, 32, "{ran:?}");
    assert!(ran.stdout.contains("missing"), "{ran:?}");
}

#[test]
fn without_a_log_it_is_said_where_it_was_looked_for() {
    let world = World::bare();
    for command in ["tail", "query", "export"] {
        world.try_run(&["audit", command]).fails(14, &["no audit log", "--keystore"]);
    }
}

/// `kmsfs audit tail -f` as it runs, and its lines with the times at which they came.
struct Tail {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Tail {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send((Instant::now(), line)))
        });
        Self { child, lines }
    }

    /// Waits for a line that has all of `words`, however many come before.
    #[track_caller]
    fn shows(&self, words: &[&str]) -> Instant {
        loop {
            let (at, line) = self.lines.recv_timeout(Duration::from_secs(20)).unwrap();
            if words.iter().all(|word| line.contains(word)) {
                return at;
            }
        }
    }

    /// Ends it as a service manager does.
    #[track_caller]
    fn ends(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Where a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn calls_are_followed_as_they_are_made() {
    let world = World::bare();
    world.try_run(&["init", "volume"]).ok();
    world.try_run(&["key", "create", "--alias", "before"]).ok();
    // It needs no secret, and does not keep the store from being opened.
    let tail = Tail::start(world.locked_command(&["audit", "tail", "-f", "-n", "1"]));
    tail.shows(&["CreateAlias", "ok"]);
    let json = Tail::start(world.locked_command(&["--json", "audit", "tail", "-f", "--event", "DisableKey"]));
    for (command, event) in
        [("disable", "DisableKey"), ("enable", "EnableKey"), ("rotate", "RotateKeyOnDemand")]
    {
        let mut command = vec!["key", command, "alias/before"];
        command.extend((event == "DisableKey").then_some("--yes"));
        world.try_run(&command).ok();
        let made = Instant::now();
        let shown = tail.shows(&[event, "ok"]);
        let late = shown.saturating_duration_since(made);
        assert!(late < Duration::from_secs(2), "{event} came after {late:?}");
    }
    world.try_run(&["key", "describe", "alias/none"]).fails(19, &[]);
    tail.shows(&["DescribeKey", "NotFoundException"]);
    let (_, line) = json.lines.recv_timeout(Duration::from_secs(20)).unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["eventName"], "DisableKey");
    assert!(json.lines.try_recv().is_err(), "others do not fit the filter");
    tail.ends();
    json.ends();
}

#[test]
fn calls_are_followed_into_the_next_segment() {
    let world = World::bare();
    let dir = world.path("keys");
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let secret = UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()));
    let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
    let options = StoreOptions { costs, ..StoreOptions::default() };
    let service = Service::create(&dir, &secret, &options, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let create = |alias: &str| {
        let caller = Caller::current();
        let call = |operation: &str, body: &Value| {
            wire::dispatch(&service, &caller, &format!("TrentService.{operation}"), body).unwrap()
        };
        let made = call("CreateKey", &json!({}));
        call("CreateAlias", &json!({ "AliasName": alias, "TargetKeyId": made["KeyMetadata"]["KeyId"] }));
    };
    create("alias/first");
    let tail = Tail::start(world.locked_command(&["--json", "audit", "tail", "-f"]));
    tail.shows(&["CreateAlias", "alias/first"]);
    for alias in ["alias/second", "alias/third"] {
        let before = segments(&world).len();
        clock.advance(SignedDuration::from_hours(25));
        create(alias);
        assert!(segments(&world).len() > before, "a day later there is another segment");
        tail.shows(&["StartAuditSegment"]);
        tail.shows(&["CreateAlias", alias]);
    }
    tail.ends();
}
