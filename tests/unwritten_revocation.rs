//! A key is taken away while the kernel holds changes for which the disk has no room. The command
//! names them and stops, and nothing has changed; with `--force` it goes on, and they are what is
//! lacking afterwards, and nothing else.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::World;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;

const DISK: u64 = 40 << 20;
const LEN: usize = 4 << 20;
const PAGE: usize = 4096;
const STOPPED: i32 = 40;
/// By now a file that was closed is settled and let go of.
const SETTLED: Duration = Duration::from_secs(6);
const ACKNOWLEDGED: &[u8] = b"synced before the disk was full";

/// A mounted volume on a disk without room, with a file of which the kernel holds `LEN` changed bytes.
struct Full {
    world: World,
    disk: PathBuf,
    mount: PathBuf,
    file: File,
    mapped: Option<*mut std::ffi::c_void>,
}

impl Full {
    /// The changes are made through a mapping, or are gathered writes.
    fn new(test: &str, mapped: bool) -> Option<Self> {
        let world = World::new(test)?;
        let Some(disk) = world.disk("disk", DISK) else {
            common::skipped(test, "no disk image could be mounted");
            return None;
        };
        world.run(&["init", "disk/vol"]);
        let mount = world.mount("disk/vol", if mapped { &[] } else { &["-o", "writeback"] });
        world.run(&["key", "create", "--alias", "secret"]);
        world.run(&["key", "assign", "alias/secret", mount.to_str().unwrap()]);
        let synced = File::create(mount.join("synced")).unwrap();
        synced.write_all_at(ACKNOWLEDGED, 0).unwrap();
        synced.sync_all().unwrap();
        let file =
            File::options().read(true).write(true).create_new(true).open(mount.join("changed")).unwrap();
        file.set_len(LEN as u64).unwrap();
        file.sync_all().unwrap();
        fill(&disk);
        let mapped = mapped.then(|| {
            let (protection, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            // SAFETY: a new mapping, of the file's length.
            let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), LEN, protection, shared, &file, 0) };
            let at = at.unwrap();
            // SAFETY: all of that mapping; nobody truncates the file.
            unsafe { at.cast::<u8>().write_bytes(b'x', LEN) };
            at
        });
        if mapped.is_none() {
            file.write_all_at(&vec![b'x'; LEN], 0).unwrap();
        }
        Some(Self { world, disk, mount, file, mapped })
    }

    fn make_space(&self) {
        fs::remove_file(self.disk.join("filler")).unwrap();
        rustix::fs::syncfs(File::open(&self.disk).unwrap()).unwrap();
    }

    /// Whether the command names the changed file and nothing else, and with how many bytes.
    fn named(&self, mounts: &Value) -> u64 {
        let unwritten = mounts[0]["Unwritten"].as_array().unwrap();
        assert_eq!(unwritten.len(), 1, "{mounts}");
        assert_eq!(unwritten[0]["File"], self.changed().to_str().unwrap());
        assert_eq!(unwritten[0]["Error"], "No space left on device");
        unwritten[0]["Bytes"].as_u64().unwrap()
    }

    fn changed(&self) -> PathBuf {
        self.mount.join("changed")
    }

    fn assert_synced_is_there(&self) {
        assert_eq!(fs::read(self.mount.join("synced")).unwrap(), ACKNOWLEDGED);
    }

    fn unmap(&mut self) {
        if let Some(at) = self.mapped.take() {
            // SAFETY: the mapping made at the beginning, which is not used any more.
            unsafe { rustix::mm::munmap(at, LEN).unwrap() };
        }
    }

    /// Unmounts everything. The disk has room again.
    fn end(mut self) {
        self.unmap();
        let Self { world, disk, mount, file, .. } = self;
        drop(file);
        world.umount(&mount);
        world.wait_for_daemons();
        common::wait_until("the disk is not busy", || unmount(&disk, UnmountFlags::empty()).is_ok());
    }
}

/// Fills a disk behind the mount's back.
fn fill(disk: &Path) {
    let filler = File::create(disk.join("filler")).unwrap();
    let mut offset = 0;
    // What ext4 holds back for data that it has not allocated yet is there for others later.
    for _ in 0..3 {
        for step in [1 << 20, PAGE] {
            while filler.write_all_at(&vec![1; step], offset).is_ok() {
                offset += step as u64;
            }
        }
        let _ = filler.sync_all();
    }
}

#[test]
fn a_revocation_stops_for_pages_of_a_mapping_and_the_next_one_writes_them() {
    stops_and_writes_later("a_revocation_stops_for_pages_of_a_mapping_and_the_next_one_writes_them", true);
}

#[test]
fn a_revocation_stops_for_gathered_writes_and_the_next_one_writes_them() {
    stops_and_writes_later("a_revocation_stops_for_gathered_writes_and_the_next_one_writes_them", false);
}

fn stops_and_writes_later(test: &str, mapped: bool) {
    let Some(full) = Full::new(test, mapped) else { return };
    let world = &full.world;
    let stopped = world.try_run(&["key", "disable", "alias/secret", "--yes"]);
    assert_eq!(stopped.code, STOPPED, "{stopped:?}");
    let line = format!("{}: ", full.changed().display());
    assert!(stopped.stderr.contains(&line), "{stopped:?}");
    assert!(stopped.stderr.contains(" bytes could not be written: No space left on device"), "{stopped:?}");
    // What the first attempt made the kernel pass on is named again.
    let stopped = world.try_run(&["--json", "key", "schedule-deletion", "alias/secret", "--yes"]);
    assert_eq!(stopped.code, STOPPED, "{stopped:?}");
    let error = stopped.stderr.lines().last().unwrap();
    let bytes = full.named(&serde_json::from_str::<Value>(error).unwrap()["Mounts"]);
    assert!((PAGE..=LEN).contains(&(bytes as usize)), "{bytes}");
    // Nothing has changed.
    assert_eq!(world.json(&["key", "describe", "alias/secret"])["KeyState"], "Enabled");
    full.assert_synced_is_there();
    let mut contents = vec![0; LEN];
    full.file.read_exact_at(&mut contents, 0).unwrap();
    assert!(contents.iter().all(|&byte| byte == b'x'), "pages were dropped");

    full.make_space();
    world.run(&["key", "disable", "alias/secret", "--yes"]);
    assert!(fs::read(full.changed()).is_err());
    world.run(&["key", "enable", "alias/secret"]);
    assert!(fs::read(full.changed()).unwrap().iter().all(|&byte| byte == b'x'), "changes were lost");
    full.assert_synced_is_there();
    full.end();
}

#[test]
fn changes_to_a_file_that_was_closed_are_named_and_written() {
    let test = "changes_to_a_file_that_was_closed_are_named_and_written";
    let Some(mut full) = Full::new(test, true) else { return };
    // Who unmaps is not told that writing fails, nor who has closed before.
    full.unmap();
    let synced = full.file.sync_data();
    assert!(synced.is_err(), "the disk is not full");
    let closed = File::open(full.mount.join("synced")).unwrap();
    drop(std::mem::replace(&mut full.file, closed));
    std::thread::sleep(SETTLED);
    let world = &full.world;
    let stopped = world.try_run(&["key", "disable", "alias/secret", "--yes"]);
    assert_eq!(stopped.code, STOPPED, "{stopped:?}");
    assert!(stopped.stderr.contains(full.changed().to_str().unwrap()), "{stopped:?}");
    full.make_space();
    world.run(&["key", "disable", "alias/secret", "--yes"]);
    world.run(&["key", "enable", "alias/secret"]);
    assert!(fs::read(full.changed()).unwrap().iter().all(|&byte| byte == b'x'), "changes were lost");
    full.end();
}

#[test]
fn a_forced_revocation_names_exactly_what_may_be_missing() {
    for mapped in [true, false] {
        let Some(full) = Full::new("a_forced_revocation_names_exactly_what_may_be_missing", mapped) else {
            return;
        };
        let world = &full.world;
        let forced = world.try_run(&["--json", "key", "disable", "alias/secret", "--yes", "--force"]).ok();
        let bytes = full.named(&serde_json::from_str::<Value>(&forced.stdout).unwrap()["Mounts"]) as usize;
        assert!(forced.stderr.contains("bytes could not be written: No space left on device"), "{forced:?}");
        full.make_space();
        world.run(&["key", "enable", "alias/secret"]);
        full.assert_synced_is_there();
        let contents = fs::read(full.changed()).unwrap();
        assert_eq!(contents.len(), LEN);
        let missing =
            contents.chunks(PAGE).filter(|page| page.iter().any(|&byte| byte != b'x')).count() * PAGE;
        assert!((1..=bytes).contains(&missing), "{missing} bytes are missing, {bytes} were named");
        // What was told is not told again.
        let again = world.try_run(&["key", "disable", "alias/secret", "--yes"]).ok();
        assert!(!again.stderr.contains("could not be written"), "{again:?}");
        full.end();
    }
}
