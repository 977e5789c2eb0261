//! After a crash: what is found is called interrupted and nothing else, and a repair leaves a volume
//! that counts as unmounted properly, with every file settled.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use kmsfs::check::{Finding, Options, Report, Severity};
use kmsfs::fs::{ROOT_INO, Volume};

use crate::bench::{
    Bench, FILES, PAGE, block, fingerprint, flip, lookup, me, mode, overwrite, reads_back, sample, unit,
    write,
};
use crate::common::{World, wait_until};

fn kinds(report: &Report) -> Vec<(&'static str, bool)> {
    let mut kinds: Vec<_> =
        report.findings.iter().map(|found| (found.finding.kind(), found.repaired.is_some())).collect();
    kinds.sort_unstable();
    kinds
}

fn is_clean_and_settled(bench: &Bench) -> bool {
    let mut volume = None;
    // A child that another test is just starting holds the lock for a moment.
    wait_until("the volume is free", || {
        volume = Volume::open_to_check(&bench.volume(), &*bench.provider, false).ok();
        volume.is_some()
    });
    volume.is_some_and(|volume| !volume.is_recovering() && volume.began_settled())
}

/// A mount that ends in the middle of its work.
fn interrupt(bench: &Bench) {
    let fs = bench.mount();
    write(&fs, "small", &[1, 2]);
    write(&fs, "mapped", &[128, 2000]);
    let (_, fh) = fs.create(me(), ROOT_INO, OsStr::new("fresh"), mode(0o600)).unwrap();
    fs.write(fh, 100, b"12345678", false, None).unwrap();
}

#[test]
fn an_interrupted_mount_leaves_findings_of_that_kind_only_and_repair_settles_them() {
    let bench = sample();
    interrupt(&bench);
    let before = fingerprint(&bench.volume());
    let found = bench.check(Options::default());
    let expected = ["not-clean", "unsettled", "unsettled", "unsettled"].map(|kind| (kind, false));
    assert_eq!(kinds(&found), expected);
    assert!(found.findings.iter().all(|found| found.finding.severity() == Severity::Interrupted));
    assert_eq!(found.exit_code(), 4);
    assert_eq!(fingerprint(&bench.volume()), before);
    let repaired = bench.repair();
    assert_eq!(kinds(&repaired), expected.map(|(kind, _)| (kind, true)), "{:?}", repaired.notes);
    assert_eq!(repaired.exit_code(), 1);
    assert!(is_clean_and_settled(&bench));
    assert_eq!(bench.check(Options::default()).exit_code(), 0);
    let fs = bench.mount();
    for (path, chunks) in FILES {
        assert!(reads_back(&fs, path, chunks), "{path}");
    }
    assert!(reads_back(&fs, "mapped", &[2000]));
}

#[test]
fn marks_that_a_crash_has_taken_are_restored_and_old_headers_are_refused_again() {
    // Not the sample: a mount that recovers reads its sparse file through, holes and all.
    let bench = Bench::new();
    let fs = bench.mount();
    write(&fs, "small", &[0]);
    fs.shut_down().unwrap();
    drop(fs);
    let fs = bench.mount();
    write(&fs, "small", &[1]);
    let during = block(&bench.backing_of(fs.volume(), "small"), 0);
    drop(fs);
    // The next mount recovers, but can tell no more that everything is settled.
    let fs = bench.mount();
    fs.recover(&|| false);
    fs.shut_down().unwrap();
    drop(fs);
    assert_eq!(kinds(&bench.check(Options::default())), [("not-all-settled", false)]);
    assert_eq!(kinds(&bench.repair()), [("not-all-settled", true)]);
    assert!(is_clean_and_settled(&bench));
    overwrite(&bench.backing("small"), 0, &during);
    assert_eq!(kinds(&bench.check(Options::default())), [("header-lost", false)]);
    let fs = bench.mount_read_only();
    assert!(!reads_back(&fs, "small", &[1]));
}

#[test]
fn a_write_whose_mark_was_lost_is_settled_and_growth_is_cut_as_a_mount_does() {
    let (overwritten, grown) = (1, 9);
    for chunk in [overwritten, grown] {
        let bench = sample();
        let header = block(&bench.backing("small"), 0);
        let fs = bench.mount();
        write(&fs, "small", &[chunk]);
        drop(fs);
        overwrite(&bench.backing("small"), 0, &header);
        assert_eq!(kinds(&bench.check(Options::default())), [("not-clean", false), ("unsettled", false)]);
        assert_eq!(bench.repair().exit_code(), 1);
        assert_eq!(bench.check(Options::default()).exit_code(), 0);
        assert!(reads_back(&bench.mount(), "small", &[0, 1, 2, 3]));
    }
}

#[test]
fn a_header_that_was_never_durable_begins_anew_or_is_put_aside_with_what_follows_it() {
    for with_data in [false, true] {
        let bench = sample();
        let fs = bench.mount();
        write(&fs, "fresh", if with_data { &[0, 1] } else { &[] });
        let file = bench.backing_of(fs.volume(), "fresh");
        drop(fs);
        overwrite(&file, 0, &[0; PAGE]);
        let data = fs::read(&file).unwrap();
        assert_eq!(kinds(&bench.check(Options::default())), [("not-clean", false), ("unsettled", false)]);
        let repaired = bench.repair();
        assert_eq!(repaired.exit_code(), 1, "{:?}", repaired.notes);
        assert_eq!(bench.check(Options::default()).exit_code(), 0);
        let aside = bench.volume().join("kmsfs.lost+found/000001").join(file.file_name().unwrap());
        assert_eq!(aside.exists(), with_data);
        if with_data {
            assert_eq!(fs::read(aside).unwrap(), data);
        }
        assert_eq!(lookup(&bench.mount(), "fresh").is_some(), !with_data);
    }
}

#[test]
fn a_directory_without_a_record_after_a_crash_is_interrupted() {
    let bench = sample();
    let fs = bench.mount();
    fs.mkdir(me(), ROOT_INO, OsStr::new("fresh"), mode(0o700)).unwrap();
    let dir = bench.backing_of(fs.volume(), "fresh");
    drop(fs);
    fs::remove_file(dir.join("kmsfs.dir")).unwrap();
    assert_eq!(kinds(&bench.check(Options::default())), [("not-clean", false), ("unsettled", false)]);
    assert_eq!(bench.repair().exit_code(), 1);
    assert_eq!(bench.check(Options::default()).exit_code(), 0);
}

#[test]
fn a_damaged_file_that_was_interrupted_keeps_the_volume_from_being_marked() {
    let bench = sample();
    interrupt(&bench);
    flip(&bench.backing("small"), unit(3) + 50);
    let repaired = bench.repair();
    let left: Vec<_> = repaired.findings.iter().filter(|found| found.repaired.is_none()).collect();
    let mut left: Vec<_> = left.iter().map(|found| found.finding.kind()).collect();
    left.sort_unstable();
    assert_eq!(left, ["chunks", "not-clean", "unsettled"], "{repaired:#?}");
    assert_eq!(repaired.exit_code(), 5);
    assert!(repaired.notes.iter().any(|note| note.contains("does not count as settled")));
    assert!(!is_clean_and_settled(&bench));
    assert!(reads_back(&bench.mount_read_only(), "mapped", &[2000]));
}

#[test]
fn a_damaged_file_that_is_settled_does_not() {
    let bench = sample();
    interrupt(&bench);
    flip(&bench.backing("dir/inside"), unit(1) + 50);
    let repaired = bench.repair();
    assert_eq!(repaired.exit_code(), 5);
    assert!(is_clean_and_settled(&bench));
    let left = bench.check(Options::default());
    assert!(matches!(left.findings[..], [ref one] if matches!(one.finding, Finding::Chunks { .. })));
}

#[test]
fn a_killed_mount_leaves_interrupted_files_only_and_repair_makes_it_clean() {
    let Some(world) = World::new("a_killed_mount_leaves_interrupted_files_only") else { return };
    let mountpoint = world.volume("vol");
    fs::create_dir(mountpoint.join("dir")).unwrap();
    for index in 0..20 {
        fs::write(mountpoint.join(format!("dir/{index}")), vec![index; 10_000]).unwrap();
    }
    let sparse = File::create(mountpoint.join("sparse")).unwrap();
    sparse.write_all_at(b"far", 140 << 20).unwrap();
    drop(sparse);
    std::os::unix::fs::symlink("t".repeat(4000), mountpoint.join("link")).unwrap();
    world.kill(&mountpoint);
    let found = world.try_run(&["--json", "fsck", "vol"]);
    assert_eq!(found.code, 4, "{found:?}");
    let said: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let findings = said["Findings"].as_array().unwrap();
    assert!(findings.len() > 20 && findings.iter().all(|f| f["Severity"] == "interrupted"), "{said:#}");
    assert_eq!(world.try_run(&["fsck", "--repair", "vol"]).code, 1);
    assert_eq!(world.try_run(&["fsck", "vol"]).code, 0);
    let mountpoint = world.mount("vol", &[]);
    for index in 0..20 {
        assert_eq!(fs::read(mountpoint.join(format!("dir/{index}"))).unwrap(), vec![index; 10_000]);
    }
    world.umount(&mountpoint);
    assert_eq!(world.try_run(&["fsck", "vol"]).code, 0);
}
