//! What depends on a key, asked on the command line and before it is taken away; the end of a version
//! that nothing depends on.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use common::{Ran, World};
use serde_json::Value;

const NOT_A_MOUNT: i32 = 21;
const NOT_CONFIRMED: i32 = 35;
const NOT_AS_EXPECTED: i32 = 36;
const STILL_USED: i32 = 37;
const KEY_STATE: i32 = 20;
const USAGE: i32 = 2;

/// A mount with files of 1000, 2000 and 3000 bytes.
fn three_files(test: &str) -> Option<(World, PathBuf)> {
    let world = World::new(test)?;
    let mount = world.volume("vol");
    for len in [1000, 2000, 3000] {
        fs::write(mount.join(len.to_string()), vec![1; len]).unwrap();
    }
    Some((world, mount))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Consequences are shown before a refusal.
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    assert!(words.iter().all(|word| ran.stderr.contains(word)), "{words:?} in {ran:?}");
}

fn impact(world: &World) -> Value {
    world.json(&["key", "impact", "alias/default"])
}

/// Whether it is certain, how many files and how many bytes.
fn sum(impact: &Value) -> (bool, u64, u64) {
    let number = |name: &str| impact[name].as_u64().unwrap();
    (impact["Certain"].as_bool().unwrap(), number("Files"), number("Bytes"))
}

fn state(impact: &Value) -> &str {
    impact["Volumes"][0]["State"].as_str().unwrap()
}

#[test]
fn the_answer_follows_what_happens_in_a_mount_and_after_it() {
    let Some((world, mount)) = three_files("the_answer_follows_what_happens") else { return };
    let held = File::open(mount.join("3000")).unwrap();
    let now = impact(&world);
    assert_eq!((sum(&now), state(&now)), ((true, 3, 6000), "MOUNTED"), "{now}");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(now["Volumes"][0]["Users"], serde_json::json!([{ "Uid": uid, "Handles": 1 }]));
    let said = world.run(&["key", "impact", "alias/default", "--paths"]);
    for word in ["3 files, 6000 bytes", "root (0): 1 handle", text(&mount.join("2000")), "mounted"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    // A file counts until it has lost its last handle, too.
    fs::remove_file(mount.join("3000")).unwrap();
    assert_eq!(sum(&impact(&world)).1, 3);
    drop(held);
    common::wait_until("the file is gone", || sum(&impact(&world)) == (true, 2, 3000));

    world.umount(&mount);
    world.wait_for_daemons();
    let away = impact(&world);
    assert_eq!((sum(&away), state(&away)), ((true, 2, 3000), "UNMOUNTED"), "{away}");
    assert!(!world.run(&["key", "impact", "alias/default"]).contains("is not there"));
    let named = world.json(&["key", "impact", "alias/default", "--paths"]);
    assert_eq!(named["Paths"].as_array().unwrap().len(), 2, "{named}");
    // Where it was, it is not: what it had is said all the same.
    fs::rename(world.path("vol"), world.path("moved")).unwrap();
    let said = world.run(&["key", "impact", "alias/default"]);
    assert!(said.contains("2 files, 3000 bytes") && said.contains("is not there"), "{said}");
    let listed = world.json(&["volume", "list"]);
    let id = listed["Volumes"][0]["VolumeId"].as_str().unwrap();
    world.run(&["volume", "forget", id]);
    assert_eq!(sum(&impact(&world)), (true, 0, 0));
}

#[test]
fn a_volume_that_was_never_mounted_is_known_to_be_empty() {
    let Some((world, _mount)) = three_files("a_volume_that_was_never_mounted") else { return };
    world.run(&["init", text(&world.path("second"))]);
    assert_eq!(sum(&impact(&world)), (true, 3, 6000));
    let listed = world.json(&["volume", "list"]);
    let known =
        |volume: &Value| volume["Path"] == text(&world.path("second")) && volume["State"] == "UNMOUNTED";
    assert!(listed["Volumes"].as_array().unwrap().iter().any(known), "{listed}");
}

#[test]
fn a_killed_mount_leaves_nothing_certain_until_it_is_back() {
    let Some((world, mount)) = three_files("a_killed_mount_leaves_nothing_certain") else { return };
    world.kill(&mount);
    world.wait_for_daemons();
    let lost = impact(&world);
    assert_eq!((sum(&lost).0, state(&lost)), (false, "LOST"), "{lost}");
    let ran = world.try_run(&["key", "disable", "alias/default", "--yes", "--expect-files", "3"]);
    refused(&ran, NOT_AS_EXPECTED, &["not certain", "kmsfs key impact"]);
    let mount = world.mount("vol", &[]);
    common::wait_until("it has recovered", || sum(&impact(&world)).0);
    assert_eq!(sum(&impact(&world)).1, 3);
    world.umount(&mount);
}

#[test]
fn a_key_is_taken_away_only_from_as_many_files_as_were_expected() {
    let Some((world, mount)) = three_files("a_key_is_taken_away_only") else { return };
    for command in ["disable", "schedule-deletion"] {
        let ran = world.try_run(&["key", command, "alias/default", "--yes", "--expect-files", "2"]);
        refused(&ran, NOT_AS_EXPECTED, &["3 files depend on the key, not 2", "nothing was changed"]);
        let ran = world.try_run(&["key", command, "alias/default", "--expect-files", "3"]);
        refused(&ran, USAGE, &["--yes"]);
    }
    assert_eq!(fs::read(mount.join("1000")).unwrap().len(), 1000);
    let done = world.json(&["key", "disable", "alias/default", "--yes", "--expect-files", "3"]);
    assert_eq!(done["Consequences"]["Impact"]["Files"], 3, "{done}");
    assert!(fs::read(mount.join("1000")).is_err());
}

#[test]
fn a_version_is_retired_when_nothing_needs_it_and_old_headers_are_lost_with_it() {
    let Some((world, mount)) = three_files("a_version_is_retired") else { return };
    world.umount(&mount);
    let backing: Vec<_> = common::tree(&world.path("vol"))
        .into_keys()
        .filter(|path| !text(path).contains("kmsfs.") && path.is_file())
        .collect();
    let old: Vec<_> = backing.iter().map(|path| (path, fs::read(path).unwrap())).collect();
    let mount = world.mount("vol", &[]);
    let retire = |more: &[&str]| world.try_run(&[&["key", "retire-version", "alias/default"], more].concat());
    refused(&retire(&["1", "--yes"]), USAGE, &["newest"]);
    world.run(&["key", "rotate", "alias/default"]);
    refused(&retire(&["1", "--yes"]), STILL_USED, &["3 files under version 1", "kmsfs rewrap"]);
    world.run(&["rewrap", text(&mount)]);
    refused(&retire(&["1"]), NOT_CONFIRMED, &["--yes"]);
    refused(&retire(&["7", "--yes"]), USAGE, &["no version 7"]);
    let done = retire(&["1", "--yes"]).ok();
    assert!(done.stderr.contains("snapshots") && done.stderr.contains("Encrypt"), "{done:?}");
    let versions = world.json(&["key", "rotation", "list", "alias/default"]);
    assert!(versions.to_string().contains("RETIRED"), "{versions}");
    assert_eq!(fs::read(mount.join("3000")).unwrap().len(), 3000);
    // A copy of the volume from before the re-wrapping is beyond help, and says so.
    world.umount(&mount);
    for (path, bytes) in old {
        fs::write(path, bytes).unwrap();
    }
    let mount = world.mount("vol", &[]);
    let error = fs::read(mount.join("3000")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EKEYREJECTED));
}

#[test]
fn a_version_is_kept_while_a_volume_is_not_known_unless_it_is_left_out_by_name() {
    let Some((world, mount)) = three_files("a_version_is_kept_while") else { return };
    world.kill(&mount);
    world.wait_for_daemons();
    world.run(&["key", "rotate", "alias/default"]);
    let id = world.json(&["volume", "list"])["Volumes"][0]["VolumeId"].as_str().unwrap().to_owned();
    let retire = ["key", "retire-version", "alias/default", "1", "--yes"];
    refused(&world.try_run(&retire), KEY_STATE, &["is not known", &id]);
    let other = "00000000-0000-4000-8000-000000000000";
    let ran = world.try_run(&[&retire[..], &["--leave-out", other]].concat());
    refused(&ran, USAGE, &["no volume"]);
    world.try_run(&[&retire[..], &["--leave-out", &id]].concat()).ok();
}

#[test]
fn reindexing_counts_a_volume_mounted_or_not() {
    let Some((world, mount)) = three_files("reindexing_counts") else { return };
    let counted = world.json(&["reindex", text(&mount)]);
    assert_eq!((&counted["Certain"], &counted["Files"]), (&true.into(), &3.into()), "{counted}");
    fs::create_dir(mount.join("dir")).unwrap();
    world.try_run(&["reindex", text(&mount.join("dir"))]).fails(NOT_A_MOUNT, &["mount point"]);
    world.umount(&mount);
    fs::write(world.path("vol").join("kmsfs.index"), "junk").unwrap();
    let mount = world.mount("vol", &[]);
    assert!(!sum(&impact(&world)).0);
    world.umount(&mount);
    let ran = world.try_run(&["--json", "reindex", text(&world.path("vol"))]).ok();
    assert!(ran.stderr.contains("makes it anew"), "the damage is said: {ran:?}");
    let counted: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&counted["Certain"], &counted["Bytes"]), (&true.into(), &6000.into()), "{counted}");
    assert_eq!(sum(&impact(&world)), (true, 3, 6000));
}
