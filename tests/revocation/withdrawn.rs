//! What a program sees that was using a file when not its key but something else went: the permission to
//! use it, the key service; and when the key is destroyed at the end of its deletion's window.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kmsfs::clock::ManualClock;
use kmsfs::kms::{Service, UnlockSecret};
use kmsfs::secret::Passphrase;
use kmsfs::server::Server;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

use crate::accesses::use_beside;
use crate::common::{RaiseOnDrop, World, wait_until};
use crate::uses::{self, Needs, Seen, seen};

const OWNER: &str = "arn:aws:iam::000000000000:root";
/// Nothing that needs no key may take longer while the service does not answer.
const AT_ONCE: Duration = Duration::from_secs(1);
/// An opening gives up on a service that does not answer.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// Who opens is refused with this; what is open goes on.
fn at_opening(errno: i32) -> impl Fn(Needs) -> Seen {
    move |needs| if needs == Needs::Opening { Seen::Fails(errno) } else { Seen::Works }
}

/// A mount on which every opening is decided for who opens, with the directory `secret` under a key of
/// its own, in which `beside` and `copy` are under the default one.
fn mount(world: &World) -> (PathBuf, PathBuf) {
    mount_with(world, "allow_other")
}

fn mount_with(world: &World, options: &str) -> (PathBuf, PathBuf) {
    world.run(&["init", "vol"]);
    let mount = world.mount("vol", &["-o", options]);
    world.run(&["key", "create", "--alias", "secret"]);
    let dir = mount.join("secret");
    for (name, len) in [("beside", 30_000), ("copy", 0)] {
        fs::write(mount.join(name), vec![1; len]).unwrap();
    }
    fs::create_dir(&dir).unwrap();
    for name in ["beside", "copy"] {
        fs::rename(mount.join(name), dir.join(name)).unwrap();
    }
    world.run(&["key", "assign", "alias/secret", dir.to_str().unwrap()]);
    (mount, dir)
}

fn every_use(dir: &Path) -> uses::Uses {
    uses::begin(dir, &dir.join("copy"))
}

/// Removes the files of the uses, for the next round.
fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if !["beside", "copy"].iter().any(|kept| entry.file_name().to_str().unwrap().starts_with(kept)) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn statement(effect: &str, principal: &str, actions: Value) -> Value {
    json!({"Effect": effect, "Principal": principal, "Action": actions, "Resource": "*"})
}

#[test]
fn a_permission_that_is_withdrawn_counts_at_the_next_opening_and_for_its_key_alone() {
    let Some(world) = World::new("a_permission_that_is_withdrawn") else { return };
    let (_mount, dir) = mount(&world);
    let all = statement("Allow", "*", json!("kms:*"));
    let no_use = statement("Deny", "*", json!(["kms:Decrypt", "kms:GenerateDataKey"]));
    let managing = json!({"Effect": "Allow", "Principal": "*", "Resource": "*",
        "NotAction": ["kms:Decrypt", "kms:GenerateDataKey"]});
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let raise = RaiseOnDrop(&done);
        let beside = scope.spawn(|| use_beside(&dir, &done, &rounds));
        let disturbs_nothing = |withdraw: &dyn Fn()| {
            let begun = every_use(&dir);
            let before = rounds.load(Ordering::SeqCst);
            withdraw();
            begun.go_on(&"withdrawn", at_opening(libc::EACCES));
            wait_until("the other key's file was used meanwhile", || {
                beside.is_finished() || rounds.load(Ordering::SeqCst) > before + 2
            });
        };
        disturbs_nothing(&|| world.put_whole_policy("alias/secret", &[all.clone(), no_use.clone()]));
        world.put_whole_policy("alias/secret", std::slice::from_ref(&all));
        clear(&dir);

        world.put_whole_policy("alias/secret", &[managing]);
        assert_eq!(seen(fs::write(dir.join("refused"), "")), Seen::Fails(libc::EACCES));
        let granted = ["grant", "create", "alias/secret", "--grantee", OWNER];
        let grant = world.json(&[&granted[..], &["--operations=Decrypt,GenerateDataKey"]].concat());
        let grant = grant["GrantId"].as_str().unwrap();
        disturbs_nothing(&|| _ = world.run(&["grant", "revoke", "alias/secret", grant]));
        drop(raise);
        beside.join().unwrap();
    });
}

#[test]
fn every_use_of_a_file_stays_ended_when_its_key_is_destroyed() {
    let Some(world) = World::new("every_use_of_a_file_stays_ended") else { return };
    world.run(&["init", "unused"]);
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let key_file = UnlockSecret::KeyFile(Passphrase::new(fs::read(world.path("key-file")).unwrap()));
    let service = Service::open(&world.path("keys"), &key_file, Arc::<ManualClock>::clone(&clock)).unwrap();
    let server = Server::start(Arc::clone(&service)).unwrap();
    let (mount, dir) = mount(&world);
    let begun = every_use(&dir);
    fs::write(dir.join("held"), "contents").unwrap();
    let held = File::open(dir.join("held")).unwrap();
    world.run(&["key", "schedule-deletion", "alias/secret", "--pending-window-in-days", "7", "--yes"]);
    let read = || seen(held.read_exact_at(&mut [0; 8], 0));
    assert_eq!(read(), Seen::Fails(libc::EKEYREVOKED));
    // Nobody calls the service: its own clock destroys the key.
    clock.advance(SignedDuration::from_hours(7 * 24));
    wait_until("the key is destroyed", || read() == Seen::Fails(libc::EKEYREJECTED));
    begun.go_on(&"destroyed", |needs| match needs {
        Needs::Opening | Needs::Key => Seen::Fails(libc::EKEYREJECTED),
        Needs::Page => Seen::Signal(libc::SIGBUS),
        Needs::Nothing => Seen::Works,
    });
    assert!(fs::read(dir.join("beside")).is_ok());
    drop(held);
    clear(&dir);
    world.umount(&mount);
    world.wait_for_daemons();
    server.end();
}

/// `kmsfs serve` of a world's key store.
struct Serving(Child);

impl Serving {
    fn start(world: &World) -> Self {
        // One that was killed leaves its socket behind, which would be taken for this one's.
        let _ = fs::remove_file(world.path("keys/socket"));
        let mut serve = world.command(&["serve"]);
        let serving = Self(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until("the key store is served", || world.path("keys/socket").exists());
        serving
    }

    /// Waits until the signal has had its effect on all threads.
    fn wait_for(&mut self, signal: Signal) {
        if signal == Signal::STOP {
            waitpid(Some(Pid::from_child(&self.0)), WaitOptions::UNTRACED).unwrap();
        } else {
            self.0.wait().unwrap();
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends of a key service that leave its mounts alone.
const ENDS: [(&str, Signal); 3] =
    [("stopped", Signal::TERM), ("killed", Signal::KILL), ("hung", Signal::STOP)];

/// Has the key service end in each way while the uses of a file are under way, on a mount with these
/// options; then brings it back.
fn without_the_service(test: &str, options: &str, check: impl Fn(&str, &Path, uses::Uses)) {
    let Some(world) = World::new(test) else { return };
    world.run(&["init", "unused"]);
    for (way, end) in ENDS {
        let mut serving = Serving::start(&world);
        let (mount, dir) = mount_with(&world, options);
        let begun = every_use(&dir);
        serving.signal(end);
        serving.wait_for(end);
        check(way, &dir, begun);
        if end == Signal::STOP {
            serving.signal(Signal::CONT);
        } else {
            serving = Serving::start(&world);
        }
        wait_until("the key service is back", || fs::read(dir.join("beside")).is_ok());
        world.umount(&mount);
        world.wait_for_daemons();
        drop(serving);
        fs::remove_dir_all(world.path("vol")).unwrap();
        world.run(&["alias", "delete", "alias/secret"]);
    }
}

/// What needs no key is done at once.
fn needs_no_key(way: &str, dir: &Path) {
    let begin = Instant::now();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        entry.metadata().unwrap();
    }
    fs::rename(dir.join("copy"), dir.join("copy.renamed")).unwrap();
    assert!(begin.elapsed() < AT_ONCE, "{way}: it took {:?}", begin.elapsed());
}

#[test]
fn without_the_key_service_every_use_goes_on_and_openings_are_refused_in_time() {
    const TEST: &str = "without_the_key_service_every_use_goes_on";
    without_the_service(TEST, "allow_other", |way, dir, begun| {
        needs_no_key(way, dir);
        let begin = Instant::now();
        assert_eq!(seen(File::open(dir.join("beside"))), Seen::Fails(libc::ENOKEY), "{way}");
        assert!(begin.elapsed() < GIVEN_UP, "{way}: it took {:?}", begin.elapsed());
        begun.go_on(&way, at_opening(libc::ENOKEY));
    });
}

#[test]
fn every_use_ends_when_the_key_service_was_not_heard_for_as_long_as_its_keys_may_live() {
    const TEST: &str = "every_use_ends_when_the_key_service_was_not_heard";
    const TTL: Duration = Duration::from_secs(3);
    without_the_service(TEST, "key_ttl=3s", |way, dir, begun| {
        let begin = Instant::now();
        let held = uses::open(&dir.join("writing"));
        let read = || seen(held.read_exact_at(&mut [0; 1], 0));
        while read() == Seen::Works {
            assert!(begin.elapsed() < TTL + GIVEN_UP, "{way}: it goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        // It was heard at most a quarter of that time before it ended.
        assert!(begin.elapsed() > TTL / 2, "{way}: after {:?}", begin.elapsed());
        needs_no_key(way, dir);
        begun.go_on(&way, |needs| match needs {
            Needs::Opening | Needs::Key => Seen::Fails(libc::ENOKEY),
            Needs::Page => Seen::Signal(libc::SIGBUS),
            Needs::Nothing => Seen::Works,
        });
    });
}

#[test]
fn a_key_service_that_is_there_and_has_nothing_to_say_is_heard() {
    let Some(world) = World::new("a_key_service_that_is_there") else { return };
    world.run(&["init", "unused"]);
    let _serving = Serving::start(&world);
    let (_mount, dir) = mount_with(&world, "key_ttl=1s");
    let held = File::open(dir.join("beside")).unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        held.read_exact_at(&mut [0; 1], 0).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
}
