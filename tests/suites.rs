//! Public test suites of filesystems, on a mount. What they find right on a plain directory of the
//! backing filesystem must be right on the mount.
//!
//! With `KMSFS_SOAK` set, fsx and fio do a hundred times as much; `scripts/soak` runs them so.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{Ran, World, has_program, run, run_within};

/// Configurations of the suites.
const CONFIGURATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suites");
/// Options under which a mount may do all that a local filesystem may.
const AS_LOCAL: [&str; 2] = ["-o", "allow_other,dev,suid"];

/// How much is done: in the gate, and in a soak.
struct Effort {
    fsx_seeds: std::ops::RangeInclusive<u64>,
    /// Operations on the small file and on the large one, for each seed.
    fsx_operations: [(&'static str, u64); 2],
    /// Bytes in each of fio's files; a multiple of 10,240,000.
    fio_size: u64,
    /// How long one run of a suite may take.
    time: Duration,
}

impl Effort {
    fn new() -> Self {
        if std::env::var_os("KMSFS_SOAK").is_some() {
            Self {
                fsx_seeds: 1..=6,
                fsx_operations: [("small", 100_000), ("large", 100_000)],
                fio_size: 256_000_000,
                time: Duration::from_secs(3600),
            }
        } else {
            Self {
                fsx_seeds: 1..=3,
                fsx_operations: [("small", 3000), ("large", 400)],
                fio_size: 10_240_000,
                time: Duration::from_secs(60),
            }
        }
    }
}

#[test]
fn pjdfstest_passes_what_passes_on_the_backing_filesystem() {
    let test = "pjdfstest_passes_what_passes_on_the_backing_filesystem";
    let Some(world) = World::new(test).filter(|_| has_program(test, "pjdfstest")) else { return };
    // Two disks, so that each can be mounted read-only while nothing else uses it.
    let (plain, backing) = (world.disk("plain", 1 << 30), world.disk("backing", 1 << 30));
    let remounts = plain.is_some() && backing.is_some();
    if !remounts {
        common::skipped(test, "pjdfstest's tests of EROFS: no disk image could be mounted");
    }
    world.run(&["init", "backing/volume"]);
    world.let_everybody_use("alias/default");
    let mount = world.mount("backing/volume", &AS_LOCAL);
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    assert!(common::mount(&["-t", "tmpfs", "tmpfs"], &other));

    let plain = world.path("plain");
    let (expected, found) = thread::scope(|scope| {
        let expected = scope.spawn(|| pjdfstest(&world, &plain, &other, remounts));
        let found = pjdfstest(&world, &mount, &other, remounts);
        (expected.join().unwrap(), found)
    });
    let passed = |outcomes: &BTreeMap<String, String>| -> BTreeSet<String> {
        outcomes.iter().filter(|(_, outcome)| *outcome == "ok").map(|(name, _)| name.clone()).collect()
    };
    assert!(passed(&expected).len() > 350, "few tests pass on the backing filesystem: {expected:?}");
    let excluded = exclusions();
    let lost: BTreeSet<_> = passed(&expected).difference(&passed(&found)).cloned().collect();
    let wrong: Vec<_> = lost.difference(&excluded).map(|name| (name, found.get(name))).collect();
    assert!(wrong.is_empty(), "pass on the backing filesystem alone: {wrong:?}");
    let stale: Vec<_> = excluded.difference(&lost).collect();
    assert!(stale.is_empty(), "excluded, but not lost: {stale:?}");
}

/// Runs pjdfstest in a directory, which it may mount read-only if `remounts`. Answers how each test
/// ended.
fn pjdfstest(world: &World, dir: &Path, other: &Path, remounts: bool) -> BTreeMap<String, String> {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let common = fs::read_to_string(Path::new(CONFIGURATIONS).join("pjdfstest.toml")).unwrap();
    let common = format!("{common}\n[dummy_auth]\nentries = {:?}\n", users());
    let run_suite = |configuration: &str, filter: &[&str]| {
        let file = world.path(&format!("{name}.toml"));
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new("pjdfstest");
        command.arg("-c").arg(&file).arg("-s").arg(other).arg("-p").arg(roomy(dir)).args(filter);
        // Without it mount(8) calls a helper for FUSE, which would mount instead of remount.
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", helperless_mount(world, name).display()));
        command.env("NO_COLOR", "1").current_dir(world.dir.path());
        outcomes(&run(command))
    };
    let mut all = run_suite(&common, &[]);
    if remounts {
        // On their own: others leave files open that forbid a read-only remount.
        let allowed = common.replace("allow_remount = false", "allow_remount = true");
        all.extend(run_suite(&allowed, &["erofs"]));
    }
    all
}

/// A directory in `dir` in which the suite can make a path as long as paths can be: it makes that
/// of parts of 127 bytes, and fails where none is left over behind them.
fn roomy(dir: &Path) -> PathBuf {
    const LONGEST: usize = 4095;
    const PART: usize = 127;
    // The suite makes two directories in each other, of names like `.tmpAbCdEf`.
    const BELOW: usize = 2 * "/.tmpAbCdEf".len();
    let fits = |path: &PathBuf| !(LONGEST - path.as_os_str().len() - BELOW).is_multiple_of(PART);
    let path = ["p", "pj"].map(|name| dir.join(name)).into_iter().find(fits).unwrap();
    fs::create_dir_all(&path).unwrap();
    path
}

/// A directory with a `mount` in it that does not look for helpers.
fn helperless_mount(world: &World, name: &str) -> PathBuf {
    let dir = world.path(&format!("{name}.bin"));
    fs::create_dir_all(&dir).unwrap();
    let program = dir.join("mount");
    let path = std::env::var("PATH").unwrap();
    fs::write(&program, format!("#!/bin/sh\nPATH={path} exec mount -i \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Two users besides root that every system has, each with the name of its group.
fn users() -> Vec<[String; 2]> {
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(|file| fs::read_to_string(file).unwrap());
    let groups: BTreeMap<&str, &str> = group
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((fields.nth(1)?, name))
        })
        .collect();
    let pairs = passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (user, uid, gid) = (fields[0], fields[2], fields[3]);
        let group = groups.get(gid).filter(|_| uid != "0" && gid != "0")?;
        Some([user.to_owned(), (*group).to_owned()])
    });
    let users: Vec<_> = pairs.filter(|[user, _]| user == "nobody" || user == "daemon").collect();
    assert_eq!(users.len(), 2, "the users nobody and daemon, with groups");
    users
}

/// How each test ended, from what pjdfstest prints.
fn outcomes(ran: &Ran) -> BTreeMap<String, String> {
    let lines = ran.stdout.lines().filter(|line| !line.starts_with(char::is_whitespace));
    let ended = lines.filter_map(|line| line.split_once(char::is_whitespace));
    let outcomes: BTreeMap<String, String> = ended
        .map(|(name, outcome)| (name.to_owned(), outcome.trim().to_owned()))
        .filter(|(_, outcome)| matches!(outcome.as_str(), "ok" | "FAILED" | "skipped"))
        .collect();
    let total = format!(" {} total", outcomes.len());
    let counted = ran.stdout.lines().any(|line| line.starts_with("Summary: ") && line.ends_with(&total));
    assert!(counted, "pjdfstest did not finish, or was not understood: {}{}", ran.stdout, ran.stderr);
    outcomes
}

/// Names of tests that may be lost; what follows a name is the reason.
fn exclusions() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(CONFIGURATIONS).join("pjdfstest.exclusions")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, reason) = line.split_once("  ").unwrap_or_default();
            assert!(!reason.is_empty(), "not a name, two spaces and a reason: {line}");
            name.to_owned()
        })
        .collect()
}

#[test]
fn fsx_leaves_the_bytes_that_it_leaves_on_a_plain_filesystem() {
    let test = "fsx_leaves_the_bytes_that_it_leaves_on_a_plain_filesystem";
    let Some(world) = World::new(test).filter(|_| has_program(test, "fsx")) else { return };
    let effort = Effort::new();
    let plain = world.path("plain");
    fs::create_dir(&plain).unwrap();
    let mut mount = world.volume("volume");
    // The second round begins with files that the first one left, settled and not in any cache.
    for round in 1..=2 {
        thread::scope(|scope| {
            for (size, operations) in effort.fsx_operations {
                for seed in effort.fsx_seeds.clone() {
                    let (world, mount, plain, time) = (&world, &mount, &plain, effort.time);
                    scope.spawn(move || {
                        for dir in [mount, plain] {
                            let file = dir.join(format!("{size}-{seed}"));
                            fsx(world, size, 10 * seed + round, operations / 2, &file, time);
                        }
                    });
                }
            }
        });
        assert_same_files(&mount, &plain);
        world.umount(&mount);
        mount = world.mount("volume", &[]);
        assert_same_files(&mount, &plain);
    }
    world.umount(&mount);
}

fn fsx(world: &World, configuration: &str, seed: u64, operations: u64, file: &Path, time: Duration) {
    let mut command = Command::new("fsx");
    command.arg("-f").arg(format!("{CONFIGURATIONS}/fsx-{configuration}.toml"));
    command.args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
    command.arg("-P").arg(world.dir.path()).arg(file);
    let ran = run_within(time, command);
    assert_eq!(ran.code, 0, "fsx -S {seed} on {}: {}{}", file.display(), ran.stdout, ran.stderr);
}

fn assert_same_files(dir: &Path, other: &Path) {
    let names = |dir: &Path| -> BTreeSet<_> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(dir), names(other));
    for name in names(dir) {
        let same = fs::read(dir.join(&name)).unwrap() == fs::read(other.join(&name)).unwrap();
        assert!(same, "{} has other bytes on the mount", name.display());
    }
}

#[test]
fn fio_finds_its_checksums_after_a_remount() {
    let test = "fio_finds_its_checksums_after_a_remount";
    let Some(world) = World::new(test).filter(|_| has_program(test, "fio")) else { return };
    let effort = Effort::new();
    let mount = world.volume("volume");
    fio(&world, &mount, &effort, &[]).ok();
    world.umount(&mount);
    let mount = world.mount("volume", &[]);
    fio(&world, &mount, &effort, &["--verify_only"]).ok();
    // A byte that changes is noticed.
    let file = fs::File::options().read(true).write(true).open(mount.join("random.1.0")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50_000).unwrap();
    file.write_all_at(&[!byte[0]], 50_000).unwrap();
    drop(file);
    let ran = fio(&world, &mount, &effort, &["--verify_only"]);
    assert!(ran.code != 0 && ran.stderr.contains("verify failed at file"), "{ran:?}");
    world.umount(&mount);
}

fn fio(world: &World, dir: &Path, effort: &Effort, arguments: &[&str]) -> Ran {
    let mut command = Command::new("fio");
    command.args(arguments).arg("--output-format=terse").arg(format!("{CONFIGURATIONS}/verify.fio"));
    command.env("DIRECTORY", dir).env("SIZE", effort.fio_size.to_string());
    // It leaves files where it runs.
    command.current_dir(world.dir.path());
    run_within(effort.time, command)
}
