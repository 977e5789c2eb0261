//! What a program sees that was using a file in some way when the file's key went away, for every way
//! and for each way that a key goes; and that a file of another key beside it is never disturbed.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};

use crate::common::{RaiseOnDrop, Ran, World};
use crate::uses::{self, Needs, Seen, open, seen};

/// How a key goes away.
#[derive(Debug, Clone, Copy)]
enum Way {
    Disable,
    ScheduleDeletion,
    DeleteMaterial,
    Expire,
}

impl Way {
    const ALL: [Self; 4] = [Self::Disable, Self::ScheduleDeletion, Self::DeleteMaterial, Self::Expire];

    /// What calls fail with afterwards.
    fn errno(self) -> i32 {
        match self {
            Self::Disable | Self::ScheduleDeletion => libc::EKEYREVOKED,
            Self::DeleteMaterial | Self::Expire => libc::EKEYEXPIRED,
        }
    }

    fn expected(self, needs: Needs) -> Seen {
        match needs {
            Needs::Opening | Needs::Key => Seen::Fails(self.errno()),
            Needs::Page => Seen::Signal(libc::SIGBUS),
            Needs::Nothing => Seen::Works,
        }
    }

    fn go(self, world: &World, key: &str, dir: &Path) {
        match self {
            Self::Disable => _ = world.run(&["key", "disable", key, "--yes"]),
            Self::ScheduleDeletion => _ = world.run(&["key", "schedule-deletion", key, "--yes"]),
            Self::DeleteMaterial => _ = world.run(&["key", "delete-material", key, "--yes"]),
            Self::Expire => {
                // Making the key that the material is wrapped with takes a busy machine its time.
                let imported = [2, 10, 50].into_iter().any(|seconds| {
                    let soon = Timestamp::now() + SignedDuration::from_secs(seconds);
                    try_import(world, &["--expires", &soon.to_string()]).code == 0
                });
                assert!(imported);
                // Nobody calls the service: its own clock takes the key away.
                let file = open(&dir.join("writing"));
                crate::common::wait_until("the material has expired", || {
                    seen(file.read_exact_at(&mut [0; 1], 0)) == Seen::Fails(self.errno())
                });
            }
        }
    }

    fn come_back(self, world: &World, key: &str) {
        match self {
            Self::Disable => {}
            Self::ScheduleDeletion => _ = world.run(&["key", "cancel-deletion", key]),
            Self::DeleteMaterial | Self::Expire => return import(world, &[]),
        }
        world.run(&["key", "enable", key]);
    }
}

fn import(world: &World, options: &[&str]) {
    assert_eq!(try_import(world, options).code, 0);
}

/// Imports the material of `alias/secret`, which is the same each time.
fn try_import(world: &World, options: &[&str]) -> Ran {
    let material = world.path("material");
    fs::write(&material, [0x5a; 32]).unwrap();
    let file = material.to_str().unwrap();
    world.try_run(&[&["key", "import", "file", "alias/secret", file], options].concat())
}

/// Uses files of another key until `done`; every call has to succeed.
pub(crate) fn use_beside(dir: &Path, done: &AtomicBool, rounds: &AtomicU64) {
    let path = dir.join("beside");
    let held = open(&path);
    while !done.load(Ordering::SeqCst) {
        let round = rounds.fetch_add(1, Ordering::SeqCst);
        let bytes = vec![round as u8; 9000];
        held.write_all_at(&bytes, (round % 5) * 3000).unwrap();
        let mut read = vec![0; 9000];
        held.read_exact_at(&mut read, (round % 5) * 3000).unwrap();
        assert!(read == bytes, "round {round}");
        let mut again = open(&path);
        again.read_exact(&mut [0; 100]).unwrap();
        held.sync_data().unwrap();
        let renamed = dir.join("beside.renamed");
        fs::rename(&path, &renamed).unwrap();
        fs::rename(&renamed, &path).unwrap();
    }
}

#[test]
fn every_use_of_a_file_ends_with_its_key_and_no_other_is_disturbed() {
    let created = super::two_keys_with("every_use_of_a_file_ends_with_its_key", |world| {
        world.run(&["key", "create", "--alias", "secret", "--origin", "EXTERNAL"]);
        import(world, &[]);
    });
    let Some((world, mount)) = created else { return };
    let dir = mount.join("secret");
    // A directory of mixed keys.
    fs::write(dir.join("beside"), vec![1; 30_000]).unwrap();
    fs::write(dir.join("copy"), "").unwrap();
    for name in ["beside", "copy"] {
        world.run(&["file", "set-key", "alias/default", dir.join(name).to_str().unwrap()]);
    }
    let key = world.json(&["key", "describe", "alias/secret"])["KeyId"].as_str().unwrap().to_owned();
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let raise = RaiseOnDrop(&done);
        let beside = scope.spawn(|| use_beside(&dir, &done, &rounds));
        for way in Way::ALL {
            let begun = uses::begin(&dir, &dir.join("copy"));
            let before = rounds.load(Ordering::SeqCst);
            way.go(&world, &key, &dir);
            begun.go_on(&way, |needs| way.expected(needs));
            crate::common::wait_until("the other key's file was used meanwhile", || {
                beside.is_finished() || rounds.load(Ordering::SeqCst) > before + 2
            });
            way.come_back(&world, &key);
            assert_eq!(fs::read(dir.join("writing")).unwrap()[..6], *b"before");
            assert_eq!(fs::read(dir.join("a-shared-mapping")).unwrap()[0], b'M');
            fs::remove_file(dir.join("opening-by-a-second-name.second")).unwrap();
        }
        drop(raise);
        beside.join().unwrap();
    });
}
