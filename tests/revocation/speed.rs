//! How long it takes until a key's files are out of reach, with many of them open, idle and under load.
//! `KMSFS_REVOKE_FILES` sets how many, `KMSFS_REVOKE_ROUNDS` how often; the times go to standard error.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kmsfs::provider::SocketClient;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::common::RaiseOnDrop;

/// A machine that is busy with other tests takes longer than one that is not.
const PATIENCE: Duration = Duration::from_secs(10);
const LEN: u64 = 10_000;

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn many_open_files_are_out_of_reach_when_the_order_returns() {
    let files = from_environment("KMSFS_REVOKE_FILES", 300);
    let rounds = from_environment("KMSFS_REVOKE_ROUNDS", 3);
    let Some((world, mount)) = super::two_keys("many_open_files_are_out_of_reach") else { return };
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let held: Vec<File> = (0..files)
        .map(|i| {
            let path = mount.join(format!("secret/{i}"));
            fs::write(&path, vec![i as u8; LEN as usize]).unwrap();
            File::options().read(true).write(true).open(path).unwrap()
        })
        .collect();
    let key = world.json(&["key", "describe", "alias/secret"])["KeyId"].clone();
    let client = SocketClient::new(&world.path("keys"));
    let order = |operation: &str| {
        let body = json!({ "KeyId": key });
        client.call_within(Duration::from_secs(60), &format!("TrentService.{operation}"), &body).unwrap()
    };
    let cut = || {
        // All of it in the kernel's cache.
        held.iter().for_each(|file| file.read_exact_at(&mut [0; LEN as usize], 0).unwrap());
        let begin = Instant::now();
        let answer = order("DisableKey");
        let took = begin.elapsed();
        for (i, file) in held.iter().enumerate() {
            let read = file.read_at(&mut [0; 1], 0);
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EKEYREVOKED), "file {i}");
        }
        assert_eq!(answer["Mounts"][0]["Files"], files);
        order("EnableKey");
        took
    };
    report(files, "idle", (0..rounds).map(|_| cut()).collect());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _raise = RaiseOnDrop(&done);
        for worker in 0..2 {
            let (held, done) = (&held, &done);
            scope.spawn(move || load(&held[worker * held.len() / 2..], done));
        }
        let (open, done) = (mount.join("open"), &done);
        scope.spawn(move || load_beside(&open, done));
        report(files, "under load", (0..rounds).map(|_| cut_under_load(&held, &order)).collect());
    });
}

/// As the idle one, but that the files are being read and written all the time.
fn cut_under_load(held: &[File], order: &dyn Fn(&str) -> serde_json::Value) -> Duration {
    std::thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    order("DisableKey");
    let took = begin.elapsed();
    for file in held {
        assert_eq!(file.read_at(&mut [0; 1], 0).unwrap_err().raw_os_error(), Some(libc::EKEYREVOKED));
    }
    order("EnableKey");
    took
}

/// Reads and writes files whose key may be gone.
fn load(held: &[File], done: &AtomicBool) {
    for round in 0usize.. {
        if done.load(Ordering::SeqCst) {
            return;
        }
        let file = &held[round % held.len()];
        let at = (round as u64 * 677) % (LEN - 1000);
        let done =
            file.write_all_at(&[round as u8; 1000], at).and_then(|()| file.read_exact_at(&mut [0; 1000], at));
        if let Err(error) = done {
            assert_eq!(error.raw_os_error(), Some(libc::EKEYREVOKED));
        }
    }
}

/// The same with files of another key, where no call may fail.
fn load_beside(dir: &Path, done: &AtomicBool) {
    for round in 0usize.. {
        if done.load(Ordering::SeqCst) {
            return;
        }
        let path = dir.join(format!("{}", round % 20));
        fs::write(&path, vec![round as u8; 5000]).unwrap();
        assert!(fs::read(&path).unwrap() == vec![round as u8; 5000]);
    }
}

fn report(files: usize, when: &str, mut times: Vec<Duration>) {
    times.sort();
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    let said = format!("{files} open files, {when}: {least:.0?} to {most:.0?}, median {median:.0?}");
    eprintln!("{said} of {}", times.len());
    assert!(most < PATIENCE, "{said}");
}
