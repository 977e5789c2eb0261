//! Locks between the processes that use a mount: flock, POSIX record locks, open file description
//! locks.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::child::{self, Child};
use common::pair::{Pair, errno, outcome};
use common::sys::record_lock;
use libc::{F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_SETLK, F_UNLCK, F_WRLCK};
use rustix::fs::{FlockOperation, flock};

/// How long a lock that is held is waited for before it counts as held.
const WHILE: Duration = Duration::from_millis(100);

#[test]
fn child() {
    child::play(&[("lock", obey)]);
}

/// Takes and drops locks on one file as told; says what came of it.
fn obey(path: &Path) {
    let mut file = Some(open(path));
    child::say("ready");
    loop {
        let said = child::listen();
        let words: Vec<&str> = said.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        let done = match words[0] {
            "flock" => {
                let how = [
                    ("shared", FlockOperation::LockShared),
                    ("exclusive", FlockOperation::LockExclusive),
                    ("try-shared", FlockOperation::NonBlockingLockShared),
                    ("try-exclusive", FlockOperation::NonBlockingLockExclusive),
                    ("unlock", FlockOperation::Unlock),
                ];
                let (_, how) = how.into_iter().find(|(name, _)| *name == words[1]).unwrap();
                outcome(flock(file.as_ref().unwrap(), how))
            }
            // Command, type, start, length.
            "fcntl" => {
                let (command, kind) = (number(1) as i32, number(2) as i32);
                outcome(record_lock(file.as_ref().unwrap(), command, kind, number(3), number(4)))
            }
            "close" => {
                file = None;
                Ok(())
            }
            "touch" => outcome(File::open(path)),
            _ => return,
        };
        child::say(&format!("{done:?}"));
    }
}

const TAKEN: &str = "Ok(())";

fn refused() -> String {
    format!("Err({})", libc::EAGAIN)
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn lock(command: i32, kind: i32, start: i64, len: i64) -> String {
    format!("fcntl {command} {kind} {start} {len}")
}

/// A file on a mount, and two processes that have it open.
fn contenders(test: &str) -> Option<(Pair, PathBuf, Child, Child)> {
    let pair = Pair::new(test, "")?;
    let path = pair.mount.join("file");
    File::create(&path).unwrap();
    let [mut a, mut b] = [(); 2].map(|()| Child::start("lock", &path));
    assert_eq!((a.hear(), b.hear()), ("ready".to_owned(), "ready".to_owned()));
    Some((pair, path, a, b))
}

#[test]
fn flock_is_shared_or_exclusive_and_waits() {
    let Some((_pair, path, mut a, mut b)) = contenders("flock_is_shared_or_exclusive") else { return };
    assert_eq!(a.ask("flock shared"), TAKEN);
    assert_eq!(b.ask("flock try-shared"), TAKEN);
    assert_eq!(b.ask("flock try-exclusive"), refused());
    // Converting gives the old lock up first.
    assert_eq!(a.ask("flock try-exclusive"), TAKEN);
    b.tell("flock exclusive");
    std::thread::sleep(WHILE);
    assert_eq!(outcome(flock(open(&path), FlockOperation::NonBlockingLockShared)), Err(libc::EAGAIN));
    assert_eq!(a.ask("flock unlock"), TAKEN);
    assert_eq!(b.hear(), TAKEN);
    assert_eq!(a.ask("flock try-shared"), refused());
    // The end of its holder, however it comes, ends the lock.
    a.tell("flock exclusive");
    std::thread::sleep(WHILE);
    b.kill();
    assert_eq!(a.hear(), TAKEN);
}

#[test]
fn flock_belongs_to_the_description_not_the_process() {
    let Some(pair) = Pair::new("flock_belongs_to_the_description", "") else { return };
    pair.alike("flock in one process", |dir| {
        let path = dir.join("file");
        File::create(&path).unwrap();
        let (one, other) = (open(&path), open(&path));
        let twin = one.try_clone().unwrap();
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let mut said = vec![
            outcome(flock(&one, exclusive)),
            outcome(flock(&twin, exclusive)),
            outcome(flock(&other, exclusive)),
        ];
        drop(one);
        said.push(outcome(flock(&other, exclusive)));
        drop(twin);
        // Processes that other tests start have the descriptors for a moment, too.
        common::wait_until("the lock is free", || flock(&other, exclusive).is_ok());
        said
    });
}

#[test]
fn posix_locks_cover_ranges_and_wait() {
    let Some((_pair, path, mut a, mut b)) = contenders("posix_locks_cover_ranges_and_wait") else { return };
    assert_eq!(a.ask(&lock(F_SETLK, F_WRLCK, 100, 50)), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 150, 10)), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_RDLCK, 149, 1)), refused());
    let held = record_lock(&open(&path), libc::F_GETLK, F_WRLCK, 0, 0).unwrap();
    assert_eq!(held, (F_WRLCK, 100, 50, a.pid() as i32));
    // A hole in the middle of a lock.
    assert_eq!(a.ask(&lock(F_SETLK, F_UNLCK, 110, 10)), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 112, 3)), TAKEN);
    assert_eq!(a.ask(&lock(F_SETLK, F_RDLCK, 100, 5)), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_RDLCK, 102, 1)), TAKEN);
    b.tell(&lock(libc::F_SETLKW, F_WRLCK, 140, 100));
    std::thread::sleep(WHILE);
    assert_eq!(a.ask(&lock(F_SETLK, F_UNLCK, 120, 30)), TAKEN);
    assert_eq!(b.hear(), TAKEN);
    assert_eq!(a.ask(&lock(F_SETLK, F_WRLCK, 239, 1)), refused());
    b.kill();
    // To the end of the file, wherever that will be.
    common::wait_until("the killed process' locks are gone", || {
        a.ask(&lock(F_SETLK, F_WRLCK, 110, 0)) == TAKEN
    });
}

#[test]
fn closing_any_descriptor_ends_a_process_posix_locks() {
    let Some((_pair, _, mut a, mut b)) = contenders("closing_any_descriptor_ends_posix_locks") else {
        return;
    };
    assert_eq!(a.ask(&lock(F_SETLK, F_WRLCK, 0, 0)), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 5, 1)), refused());
    assert_eq!(a.ask("touch"), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 5, 1)), TAKEN);
    // Of an open file description's, only the last close of that.
    assert_eq!(a.ask(&lock(F_OFD_SETLK, F_WRLCK, 10, 1)), TAKEN);
    assert_eq!(a.ask("touch"), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 10, 1)), refused());
    assert_eq!(a.ask("close"), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 10, 1)), TAKEN);
}

#[test]
fn a_deadlock_of_posix_locks_is_found() {
    let Some((_pair, _, mut a, mut b)) = contenders("a_deadlock_of_posix_locks_is_found") else { return };
    assert_eq!(a.ask(&lock(F_SETLK, F_WRLCK, 0, 1)), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 1, 1)), TAKEN);
    a.tell(&lock(libc::F_SETLKW, F_WRLCK, 1, 1));
    std::thread::sleep(WHILE);
    assert_eq!(b.ask(&lock(libc::F_SETLKW, F_WRLCK, 0, 1)), format!("Err({})", libc::EDEADLK));
    assert_eq!(b.ask(&lock(F_SETLK, F_UNLCK, 1, 1)), TAKEN);
    assert_eq!(a.hear(), TAKEN);
}

#[test]
fn description_locks_hold_within_a_process_and_against_others() {
    let Some((_pair, path, mut a, _b)) = contenders("description_locks_hold_within_a_process") else {
        return;
    };
    let (one, other) = (open(&path), open(&path));
    let take = |file: &File, kind| outcome(record_lock(file, F_OFD_SETLK, kind, 0, 10));
    assert_eq!(take(&one, F_RDLCK), Ok(()));
    assert_eq!(take(&other, F_RDLCK), Ok(()));
    assert_eq!(take(&other, F_WRLCK), Err(libc::EAGAIN));
    assert_eq!(take(&one, F_UNLCK), Ok(()));
    assert_eq!(take(&other, F_WRLCK), Ok(()));
    assert_eq!(record_lock(&one, F_OFD_GETLK, F_WRLCK, 3, 1).unwrap(), (F_WRLCK, 0, 10, -1));
    assert_eq!(a.ask(&lock(F_SETLK, F_WRLCK, 9, 1)), refused());
    a.tell(&lock(libc::F_OFD_SETLKW, F_WRLCK, 9, 1));
    std::thread::sleep(WHILE);
    drop(other);
    assert_eq!(a.hear(), TAKEN);
    assert_eq!(take(&one, F_WRLCK), Err(libc::EAGAIN));
}

#[test]
fn flock_and_record_locks_know_nothing_of_each_other() {
    let Some((_pair, _, mut a, mut b)) = contenders("flock_and_record_locks_are_apart") else { return };
    assert_eq!(a.ask("flock try-exclusive"), TAKEN);
    assert_eq!(b.ask(&lock(F_SETLK, F_WRLCK, 0, 0)), TAKEN);
    assert_eq!(b.ask("flock try-shared"), refused());
}

#[test]
fn locks_need_the_access_that_they_protect() {
    let Some(pair) = Pair::new("locks_need_the_access_that_they_protect", "") else { return };
    pair.alike("access for locks", |dir| {
        let path = dir.join("file");
        File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        let directory = File::open(dir).unwrap();
        (
            errno(record_lock(&reader, F_SETLK, F_WRLCK, 0, 1)),
            outcome(record_lock(&reader, F_SETLK, F_RDLCK, 0, 1)),
            outcome(flock(&reader, FlockOperation::NonBlockingLockExclusive)),
            outcome(flock(&directory, FlockOperation::NonBlockingLockExclusive)),
            outcome(record_lock(&reader, F_SETLK, F_RDLCK, -1, 1)),
        )
    });
}
