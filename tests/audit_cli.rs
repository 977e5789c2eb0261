//! `kmsfs audit` on the log of a real key store.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::World;
use serde_json::Value;

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
