//! Keys that are not usable, and what a repair knows about keys.

use std::ffi::OsStr;
use std::fs;

use kmsfs::check::Options;
use kmsfs::fs::KEY_XATTR;

use crate::bench::{Bench, fill, flip, lookup, reads_back, unit, write};

/// A volume with a key store of its own, so that its keys can be switched.
fn own() -> Bench {
    let bench = Bench::new();
    fill(&bench);
    bench
}

#[test]
fn files_under_a_disabled_key_are_not_checked_and_no_damage() {
    let bench = own();
    flip(&bench.backing("dir/inside"), unit(1) + 9);
    bench.disable(1);
    let found = bench.check(Options::default());
    assert!(found.findings.is_empty(), "{:#?}", found.findings);
    let why = format!("key {} is Disabled", bench.keys[1]);
    // `inside`, `other` and `sub/below`, which inherited it.
    assert_eq!(found.not_checked.into_iter().collect::<Vec<_>>(), [(why, 3)]);
    bench.enable(1);
    let found = bench.check(Options::default());
    assert_eq!((found.findings.len(), found.not_checked.len()), (1, 0));
}

#[test]
fn marks_are_not_restored_while_files_could_not_be_checked() {
    let bench = own();
    let fs = bench.mount();
    write(&fs, "dir/inside", &[1]);
    drop(fs);
    bench.disable(1);
    let repaired = bench.repair();
    assert_eq!(repaired.exit_code(), 4, "{repaired:#?}");
    assert!(
        repaired.notes.iter().any(|note| note.contains("3 files or directories")),
        "{:?}",
        repaired.notes
    );
    bench.enable(1);
    assert_eq!(bench.repair().exit_code(), 1);
    assert_eq!(bench.check(Options::default()).exit_code(), 0);
    assert!(reads_back(&bench.mount(), "dir/inside", &[0, 1]));
}

#[test]
fn a_rebuilt_record_says_where_its_key_is_from_or_that_it_is_not_known() {
    let bench = own();
    for (path, words) in [
        ("dir", format!("new files in it get {}, as the 2 that were made in it have", bench.keys[1])),
        ("void", "is not known".to_owned()),
    ] {
        fs::remove_file(bench.backing(path).join("kmsfs.dir")).unwrap();
        let repaired = bench.repair();
        let how = repaired.findings[0].repaired.clone().unwrap();
        assert!(how.contains(&words), "{how}");
    }
    let fs = bench.mount_read_only();
    let key = |path| fs.getxattr(lookup(&fs, path).unwrap(), OsStr::new(KEY_XATTR));
    assert_eq!(key("dir").unwrap(), bench.keys[1].as_bytes());
    assert_eq!(key("void").unwrap_err().errno(), libc::ENODATA);
}

#[test]
fn what_was_put_aside_can_be_put_back_by_hand_and_names_no_plaintext() {
    let bench = own();
    let from = bench.backing("small");
    let to = bench.backing("plain").join(from.file_name().unwrap());
    fs::rename(&from, &to).unwrap();
    assert_eq!(bench.repair().exit_code(), 1);
    let cell = bench.volume().join("kmsfs.lost+found/000001");
    let why = fs::read_to_string(cell.join("why.txt")).unwrap();
    assert!(why.starts_with(to.strip_prefix(bench.volume()).unwrap().to_str().unwrap()), "{why}");
    assert!(why.contains("does not open in this directory"), "{why}");
    assert!(!why.contains("plain/") && !why.contains("small"), "{why}");
    fs::rename(cell.join(from.file_name().unwrap()), &from).unwrap();
    // It was not counted where it was.
    let found = bench.check(Options::default());
    assert_eq!(
        found.findings.iter().map(|found| found.finding.kind()).collect::<Vec<_>>(),
        ["index-differs"]
    );
    assert_eq!((bench.repair().exit_code(), bench.check(Options::default()).exit_code()), (1, 0));
    assert!(reads_back(&bench.mount(), "small", &[0, 1, 2, 3]));
}

#[test]
fn targets_of_links_that_were_put_aside_are_kept() {
    let bench = own();
    let from = bench.backing("long-link");
    fs::rename(&from, bench.backing("plain").join(from.file_name().unwrap())).unwrap();
    assert_eq!(bench.repair().exit_code(), 1);
    assert_eq!(bench.repair().exit_code(), 0);
    let aside = bench.volume().join("kmsfs.lost+found/000001").join(from.file_name().unwrap());
    fs::rename(aside, &from).unwrap();
    let fs = bench.mount_read_only();
    assert_eq!(fs.readlink(lookup(&fs, "long-link").unwrap()).unwrap().len(), 4000);
}
