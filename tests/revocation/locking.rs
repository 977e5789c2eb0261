//! Locking the key store under live mounts: every file is cut off, names are not, and unlocking brings
//! back what was not cut off by itself.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::common::{World, wait_until};
use super::uses::{self, Needs, Seen, open};
use super::{errno, two_keys};

const STORE_IN_USE: i32 = 22;
const WRONG_SECRET: i32 = 13;
const KEY_STATE: i32 = 20;
const NOT_ALL_LOCKED: i32 = 38;

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 6];
    file.read_exact_at(&mut bytes, 0).map(|()| bytes)
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn now(process: Pid) -> Self {
        kill_process(process, Signal::STOP).unwrap();
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Makes a file and keeps it open.
fn held(path: &Path) -> File {
    fs::write(path, "before").unwrap();
    open(path)
}

#[test]
fn every_use_of_a_file_ends_when_the_store_is_locked() {
    let Some((world, mount)) = two_keys("every_use_of_a_file_ends_when_the_store_is_locked") else { return };
    let copy = mount.join("copy");
    fs::write(&copy, "").unwrap();
    for dir in ["secret", "open"].map(|dir| mount.join(dir)) {
        let begun = uses::begin(&dir, &copy);
        let said = world.run(&["lock"]);
        assert!(said.contains("cut off at"), "{said}");
        begun.go_on(&"locked", |needs| match needs {
            Needs::Opening | Needs::Key => Seen::Fails(libc::ENOKEY),
            Needs::Page => Seen::Signal(libc::SIGBUS),
            Needs::Nothing => Seen::Works,
        });
        world.run(&["unlock"]);
        assert_eq!(fs::read(dir.join("writing")).unwrap()[..6], *b"before");
        assert_eq!(fs::read(dir.join("a-shared-mapping")).unwrap()[0], b'M');
    }
}

#[test]
fn handles_go_on_after_unlocking_and_names_need_no_key() {
    let Some((world, first)) = two_keys("handles_go_on_after_unlocking") else { return };
    let second = world.volume("other");
    world.run(&["key", "create", "--alias", "gone"]);
    fs::create_dir(second.join("gone")).unwrap();
    world.run(&["key", "assign", "alias/gone", second.join("gone").to_str().unwrap()]);
    let places: [PathBuf; 4] =
        [first.join("secret/file"), first.join("open/file"), second.join("file"), second.join("gone/file")];
    let files = places.clone().map(|path| held(&path));
    // Not on disk yet: the kernel has it.
    files[0].write_all_at(b"during", 0).unwrap();
    world.run(&["key", "disable", "alias/gone", "--yes"]);

    world.run(&["lock"]);
    for file in &files[..3] {
        assert_eq!(errno(read(file)), libc::ENOKEY);
    }
    assert_eq!(errno(read(&files[3])), libc::EKEYREVOKED, "it says what keeps it shut after unlocking too");
    for (path, mount) in [(&places[0], &first), (&places[2], &second)] {
        assert_eq!(errno(fs::read(path)), libc::ENOKEY);
        assert_eq!(errno(fs::write(mount.join("new"), "x")), libc::ENOKEY);
        assert_eq!(fs::metadata(path).unwrap().len(), 6);
        assert!(fs::read_dir(mount).unwrap().all(|entry| entry.unwrap().metadata().is_ok()));
        let renamed = path.with_extension("renamed");
        fs::rename(path, &renamed).unwrap();
        fs::hard_link(&renamed, path).unwrap();
        fs::remove_file(&renamed).unwrap();
        fs::create_dir(mount.join("dir")).unwrap();
        std::os::unix::fs::symlink("target", mount.join("link")).unwrap();
        assert_eq!(fs::read_link(mount.join("link")).unwrap(), Path::new("target"));
        fs::remove_dir(mount.join("dir")).unwrap();
        fs::remove_file(mount.join("link")).unwrap();
    }
    let refused = world.try_run(&["key", "enable", "alias/gone"]);
    refused.fails(KEY_STATE, &["the key store is locked", "kmsfs unlock"]);
    assert!(world.run(&["key", "list"]).contains("alias/gone"));
    let status = world.json(&["status"]);
    assert_eq!(status["Service"]["Locked"]["Reason"], "Command", "{status}");
    assert!(world.run(&["status"]).contains("locked since"));

    let said = world.run(&["unlock"]);
    assert_eq!(said, "the key store is unlocked\n");
    assert_eq!(read(&files[0]).unwrap(), b"during", "what was written before was brought to disk");
    for file in &files[1..3] {
        assert_eq!(read(file).unwrap(), b"before");
        file.write_all_at(b"after!", 0).unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(errno(read(&files[3])), libc::EKEYREVOKED);
    world.run(&["key", "enable", "alias/gone"]);
    assert_eq!(read(&files[3]).unwrap(), b"before");
    drop(files);
    world.umount(&second);
    world.umount(&first);
    let first = world.mount("vol", &[]);
    assert_eq!(fs::read(first.join("secret/file")).unwrap(), b"during");
    assert_eq!(fs::read(first.join("open/file")).unwrap(), b"after!");
    assert!(world.run(&["audit", "verify"]).len() > 10);
}

#[test]
fn the_secret_comes_from_where_it_always_does_and_a_wrong_one_opens_nothing() {
    let Some((world, mount)) = two_keys("the_secret_comes_from_where_it_always_does") else { return };
    let file = held(&mount.join("open/file"));
    let new = world.path("new-passphrase");
    fs::write(&new, "correct horse\n").unwrap();
    let new = new.to_str().unwrap();
    world.run(&["store", "passphrase", "--add", "--new-passphrase-file", new]);
    let unlock =
        |arguments: &[&str]| crate::common::run(world.locked_command(&[&["unlock"], arguments].concat()));
    assert_eq!(unlock(&[]).ok().stdout, "the key store is not locked\n");
    assert_eq!(crate::common::run(world.locked_command(&["lock"])).ok().stdout.lines().count(), 2);
    assert_eq!(world.run(&["lock"]), "the key store had been locked already\n");

    let wrong = world.path("wrong");
    fs::write(&wrong, "incorrect horse, longer than a key file has to be\n").unwrap();
    for option in ["--passphrase-file", "--key-file"] {
        unlock(&[option, wrong.to_str().unwrap()]).fails(WRONG_SECRET, &["wrong passphrase or key file"]);
    }
    assert_eq!(unlock(&[]).code, 24, "there is nothing to take it from");
    assert_eq!(errno(read(&file)), libc::ENOKEY);
    unlock(&["--passphrase-command", &format!("cat {new}")]).ok();
    assert_eq!(read(&file).unwrap(), b"before");
    drop(file);
    world.umount(&mount);
    world.wait_for_daemons();
    unlock(&["--passphrase-file", new]).fails(STORE_IN_USE, &["no process has the key store open"]);
    assert_eq!(world.run(&["lock"]), "no process has the key store open\n");
}

#[test]
fn a_mount_that_does_not_answer_is_named_and_follows_when_it_does() {
    let Some((world, first)) = two_keys("a_mount_that_does_not_answer_is_named") else { return };
    let second = world.volume("other");
    let near = held(&first.join("file"));
    // Not kept open: a process that is started meanwhile would close its copy, and that asks the mount.
    let far = second.join("file");
    fs::write(&far, "before").unwrap();
    let stopped = world.process(&second);
    let asleep = Stopped::now(stopped);
    let begin = Instant::now();
    let ran = world.try_run(&["lock"]);
    drop(asleep);
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    ran.fails(NOT_ALL_LOCKED, &[second.to_str().unwrap(), "may still be readable"]);
    assert_eq!(errno(read(&near)), libc::ENOKEY);
    // It was told, and hears it now.
    wait_until("the other mount is locked", || {
        fs::read(&far).is_err_and(|e| e.raw_os_error() == Some(libc::ENOKEY))
    });

    // Told both while it sleeps, it ends up as the later one says.
    let asleep = Stopped::now(stopped);
    let ran = world.try_run(&["unlock"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("did not answer"), "{ran:?}");
    world.try_run(&["lock"]).fails(NOT_ALL_LOCKED, &["other.mnt"]);
    world.run(&["unlock"]);
    drop(asleep);
    wait_until("the other mount is unlocked", || fs::read(&far).is_ok());
    assert_eq!(read(&near).unwrap(), b"before");
}

#[test]
fn a_store_that_nobody_uses_locks_itself() {
    let Some(world) = World::new("a_store_that_nobody_uses_locks_itself") else { return };
    world.run(&["init", "vol"]);
    let mount = world.mount("vol", &["-o", "lock_after=3s"]);
    let file = held(&mount.join("file"));
    let is_locked = || world.json(&["status"])["Service"]["Locked"]["Reason"] == "Idle";
    // Writing is use: the kernel passes it on.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        file.write_all_at(b"before", 0).unwrap();
        file.sync_all().unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(!is_locked(), "it was in use");
    let begin = Instant::now();
    // Looking is not.
    wait_until("the key store is locked", || {
        fs::metadata(mount.join("file")).unwrap();
        assert_eq!(fs::read_dir(&mount).unwrap().count(), 1);
        is_locked()
    });
    assert!(begin.elapsed() > Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(errno(read(&file)), libc::ENOKEY);
    world.run(&["unlock"]);
    assert_eq!(read(&file).unwrap(), b"before");
}
