//! Which key a file has, and what its loss looks like to programs.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::World;
use common::pair::{Pair, outcome, pattern};

/// The master key that `kmsfs file info` tells.
fn key_of(world: &World, path: &Path) -> String {
    info(world, path)["key_arn"].as_str().unwrap().to_owned()
}

fn info(world: &World, path: &Path) -> serde_json::Value {
    world.json(&["file", "info", path.to_str().unwrap()])[0].clone()
}

/// A new master key's ARN.
fn new_key(world: &World, name: &str) -> String {
    world.run(&["key", "create", "--alias", name]);
    let described = world.json(&["key", "describe", &format!("alias/{name}")]);
    described["Arn"].as_str().or(described["KeyMetadata"]["Arn"].as_str()).unwrap().to_owned()
}

fn assign(world: &World, key: &str, dir: &Path) {
    world.run(&["key", "assign", key, dir.to_str().unwrap()]);
}

#[test]
fn a_new_file_gets_a_data_key_of_its_own_under_its_directorys_key() {
    let Some(pair) = Pair::new("a_new_file_gets_a_data_key_of_its_own", "") else { return };
    let world = &pair.world;
    let (dir, a) = (pair.mount.join("dir"), new_key(world, "a"));
    fs::create_dir(&dir).unwrap();
    fs::write(pair.mount.join("default"), "x").unwrap();
    let default = key_of(world, &pair.mount.join("default"));
    assign(world, "alias/a", &dir);
    let (mut ids, mut stored) = (BTreeSet::new(), BTreeSet::new());
    for name in ["1", "2", "3"] {
        let path = dir.join(name);
        fs::write(&path, pattern(1, 4000)).unwrap();
        assert_eq!(key_of(world, &path), a);
        ids.insert(info(world, &path)["file_id"].to_string());
        stored.insert(fs::read(pair.backing(&path)).unwrap()[4096..].to_vec());
    }
    assert_eq!((ids.len(), stored.len()), (3, 3), "the same contents are stored differently");
    fs::write(pair.mount.join("later"), "x").unwrap();
    assert_eq!(key_of(world, &pair.mount.join("later")), default);
}

#[test]
fn directories_inherit_their_key_when_they_are_made() {
    let Some(pair) = Pair::new("directories_inherit_their_key", "") else { return };
    let world = &pair.world;
    let [a, b, c] = ["a", "b", "c"].map(|name| new_key(world, name));
    let top = pair.mount.join("top");
    fs::create_dir(&top).unwrap();
    assign(world, "alias/a", &top);
    fs::create_dir_all(top.join("sub/below")).unwrap();
    let made = |dir: &Path, name: &str| {
        fs::write(dir.join(name), "x").unwrap();
        key_of(world, &dir.join(name))
    };
    assert_eq!(made(&top.join("sub/below"), "1"), a);
    // A key of its own, and what had inherited stays with the directory above.
    assign(world, "alias/b", &top.join("sub/below"));
    assign(world, "alias/c", &top);
    assert_eq!(
        (made(&top, "2"), made(&top.join("sub"), "2"), made(&top.join("sub/below"), "2")),
        (c.clone(), c.clone(), b)
    );
    assert_eq!(key_of(world, &top.join("sub/below/1")), a, "files that were there keep theirs");
    // The root's is the volume's default.
    assign(world, "alias/c", &pair.mount);
    fs::create_dir(pair.mount.join("new")).unwrap();
    assert_eq!((made(&pair.mount, "3"), made(&pair.mount.join("new"), "3")), (c.clone(), c.clone()));
    pair.remount();
    assert_eq!((made(&pair.mount, "4"), made(&top, "4")), (c.clone(), c));
}

#[test]
fn a_file_keeps_its_key_wherever_it_is_moved_or_linked() {
    let Some(pair) = Pair::new("a_file_keeps_its_key", "") else { return };
    let world = &pair.world;
    let [a, b] = ["a", "b"].map(|name| {
        let (dir, key) = (pair.mount.join(name), new_key(world, name));
        fs::create_dir(&dir).unwrap();
        assign(world, &format!("alias/{name}"), &dir);
        (dir, key)
    });
    fs::write(a.0.join("file"), "contents").unwrap();
    let before = info(world, &a.0.join("file"));
    fs::hard_link(a.0.join("file"), b.0.join("linked")).unwrap();
    fs::rename(a.0.join("file"), b.0.join("moved")).unwrap();
    for name in ["linked", "moved"] {
        for field in ["key_arn", "file_id", "key_version"] {
            assert_eq!(info(world, &b.0.join(name))[field], before[field], "{field} of {name}");
        }
    }
    // Rewritten, it is still the same file; a copy is another.
    File::create(b.0.join("moved")).unwrap();
    fs::copy(b.0.join("linked"), b.0.join("copied")).unwrap();
    assert_eq!((key_of(world, &b.0.join("moved")), key_of(world, &b.0.join("copied"))), (a.1, b.1));
}

#[test]
fn without_the_key_service_open_files_go_on_and_others_wait_for_it_in_vain() {
    let Some(world) = World::new("without_the_key_service") else { return };
    // The first mount has the key store open; the second asks it.
    let (first, second) = (world.volume("first"), world.volume("second"));
    for name in ["open", "closed"] {
        fs::write(second.join(name), "contents").unwrap();
    }
    world.umount(&second);
    let second_again = world.mount("second", &[]);
    assert_eq!(second, second_again);
    let held = File::options().read(true).write(true).open(second.join("open")).unwrap();
    world.kill(&first);
    let begin = std::time::Instant::now();
    let mut found = [0; 8];
    held.read_exact_at(&mut found, 0).unwrap();
    held.write_all_at(b"CONTENTS", 0).unwrap();
    held.sync_all().unwrap();
    assert_eq!(outcome(File::open(second.join("closed"))), Err(libc::ENOKEY));
    assert_eq!(outcome(File::create(second.join("new"))), Err(libc::ENOKEY));
    assert_eq!(fs::read_dir(&second).unwrap().count(), 2);
    assert!(begin.elapsed().as_secs() < 10, "nothing hangs");
    // It is back with the next process that opens the store.
    world.mount("first", &[]);
    common::wait_until("the keys are back", || {
        fs::read(second.join("closed")).is_ok_and(|found| found == b"contents")
    });
}
