//! What is left in the memory of a process whose key store is locked: no key material that a test can
//! know, and nothing of what unlocked it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "common/mod.rs"]
mod common;
#[path = "clients/serving.rs"]
mod serving;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use data_encoding::{BASE64, HEXLOWER};

use common::{World, is_root};
use serving::Serving;

/// Something that is looked for.
struct Sought {
    what: &'static str,
    bytes: Vec<u8>,
}

/// How often each is in the memory of a process.
fn scan(pid: i32, sought: &[Sought]) -> Vec<usize> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut found = vec![0; sought.len()];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        let mut region = vec![0; usize::try_from(to - from).unwrap()];
        // A stack that is growing, or memory that was given back meanwhile.
        let Ok(len) = memory.read_at(&mut region, from) else { continue };
        for (found, sought) in found.iter_mut().zip(sought) {
            *found += occurrences(&region[..len], &sought.bytes);
        }
    }
    found
}

fn occurrences(memory: &[u8], sought: &[u8]) -> usize {
    let mut rest = memory;
    std::iter::from_fn(|| {
        // SAFETY: both are slices, of these lengths.
        let at =
            unsafe { libc::memmem(rest.as_ptr().cast(), rest.len(), sought.as_ptr().cast(), sought.len()) };
        if at.is_null() {
            return None;
        }
        rest = &rest[at as usize - rest.as_ptr() as usize + 1..];
        Some(())
    })
    .count()
}

/// Imported material and the key file, as they are and as they travel.
fn sought(world: &World, material: &[u8; 32]) -> Vec<Sought> {
    let key_file = fs::read(world.path("key-file")).unwrap();
    vec![
        Sought { what: "imported material", bytes: material.to_vec() },
        Sought { what: "half of it", bytes: material[16..].to_vec() },
        Sought { what: "it in hexadecimal", bytes: HEXLOWER.encode(material).into_bytes() },
        Sought { what: "the key file", bytes: key_file[..32].to_vec() },
        Sought {
            what: "the key file in base64",
            bytes: BASE64.encode(&key_file).into_bytes()[..40].to_vec(),
        },
    ]
}

fn import(world: &World) -> [u8; 32] {
    let mut material = [0; 32];
    getrandom::fill(&mut material).unwrap();
    let file = world.path("material");
    fs::write(&file, material).unwrap();
    world.run(&["key", "create", "--alias", "known", "--origin", "EXTERNAL"]);
    world.run(&["key", "import", "file", "alias/known", file.to_str().unwrap()]);
    material
}

#[track_caller]
fn assert_clean(pid: i32, sought: &[Sought], when: &str) {
    let found = scan(pid, sought);
    let left: Vec<_> = sought.iter().zip(found).filter(|(_, n)| *n > 0).map(|(s, n)| (s.what, n)).collect();
    assert!(left.is_empty(), "{when}: {left:?}");
}

#[test]
fn a_locked_service_has_no_key_in_its_memory() {
    if !is_root("a_locked_service_has_no_key_in_its_memory") {
        return;
    }
    let serving = Serving::start(World::bare(), &[]);
    let world = &serving.world;
    let material = import(world);
    let sought = sought(world, &material);
    let pid = i32::try_from(world.json(&["status"])["Service"]["Pid"].as_u64().unwrap()).unwrap();
    assert!(scan(pid, &sought)[0] > 0, "the scan finds what is there");
    for round in 0..3 {
        world.run(&["lock"]);
        assert_clean(pid, &sought, &format!("locked {round} times before"));
        world.run(&["unlock"]);
        assert!(scan(pid, &sought)[0] > 0, "it is back");
        let found = scan(pid, &sought);
        assert_eq!(found[3..], [0, 0], "what unlocked it is not kept");
    }
}

#[test]
fn a_locked_mount_has_no_key_in_its_memory() {
    let Some(world) = World::new("a_locked_mount_has_no_key_in_its_memory") else { return };
    let mount = world.volume("vol");
    let material = import(&world);
    world.run(&["key", "assign", "alias/known", mount.to_str().unwrap()]);
    let file = mount.join("file");
    fs::write(&file, "contents").unwrap();
    let held = File::open(&file).unwrap();
    let sought = sought(&world, &material);
    let pid = world.process(&mount).as_raw_nonzero().get();
    assert!(scan(pid, &sought)[0] > 0, "the scan finds what is there");
    for round in 0..2 {
        world.run(&["lock"]);
        assert_clean(pid, &sought, &format!("locked {round} times before"));
        world.run(&["unlock"]);
        assert_eq!(held.read_at(&mut [0; 8], 0).unwrap(), 8);
    }
}
