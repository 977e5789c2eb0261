//! Every case of damage: what is found, with and without keys; that looking changes nothing; what a
//! repair does, that it loses nothing, and that everything else reads back.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use kmsfs::check::{Found, Options, Report, Severity};
use kmsfs::fs::KEY_XATTR;

use crate::bench::{Bench, FILES, LINKS, all_contents, fingerprint, lookup, reads_back, sample};
use crate::cases::{Case, Expected, all};

/// What a report says, in the words of a case.
fn said(report: &Report) -> Vec<Expected> {
    let place = |found: &Found| match &found.place.path {
        Some(path) => path.to_str().unwrap().to_owned(),
        None => format!(":{}", found.place.backing.to_str().unwrap()),
    };
    let chunks =
        |found: &Found| found.finding.chunks().map(|chunks| (chunks.start, chunks.end - chunks.start));
    report
        .findings
        .iter()
        .map(|found| Expected { place: place(found), kind: found.finding.kind(), chunks: chunks(found) })
        .collect()
}

fn kinds(report: &Report) -> Vec<&'static str> {
    let mut kinds: Vec<_> = report.findings.iter().map(|found| found.finding.kind()).collect();
    kinds.sort_unstable();
    kinds
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}

/// Whether both lists say the same; an expected place may be one of several.
fn agree(found: &[Expected], expected: &[Expected]) -> bool {
    let matches = |found: &Expected, expected: &Expected| {
        expected.place.split('|').any(|place| place == found.place)
            && (found.kind, found.chunks) == (expected.kind, expected.chunks)
    };
    let mut rest = found.to_vec();
    expected.iter().all(|expected| {
        let at = rest.iter().position(|found| matches(found, expected));
        at.map(|at| rest.remove(at)).is_some()
    }) && rest.is_empty()
}

#[test]
fn every_kind_of_damage_is_found_and_repaired_without_loss() {
    let cases = all();
    assert!(cases.len() > 90, "{} cases", cases.len());
    let only = std::env::var("CASE").ok();
    let wanted = |case: &&Case| only.as_ref().is_none_or(|only| case.name.contains(only));
    let failed: Vec<String> = cases
        .iter()
        .filter(wanted)
        .filter_map(|case| try_case(case).err().map(|why| format!("{}: {why}", case.name)))
        .collect();
    assert!(failed.is_empty(), "\n{}\n", failed.join("\n"));
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn try_case(case: &Case) -> Result<(), String> {
    let bench = sample();
    let expected = (case.found)(&bench);
    (case.damage)(&bench);
    let before = fingerprint(&bench.volume());
    let found = bench.check(Options::default());
    ensure(agree(&said(&found), &expected), || format!("found {:#?}, not {expected:#?}", said(&found)))?;
    let bits = if expected.iter().all(|e| e.kind == "foreign") { 0 } else { 4 };
    ensure(found.exit_code() == bits, || format!("exit code {}", found.exit_code()))?;
    let keyless = bench.check_without_keys();
    ensure(kinds(&keyless) == sorted(&case.keyless), || format!("without keys {:?}", kinds(&keyless)))?;
    ensure(fingerprint(&bench.volume()) == before, || "looking changed something".to_owned())?;
    repair(&bench, case)?;
    others_read_back(&bench, case)
}

fn repair(bench: &Bench, case: &Case) -> Result<(), String> {
    let before = all_contents(&bench.volume());
    let repaired = bench.repair();
    let left: Vec<_> = repaired.findings.iter().filter(|found| found.repaired.is_none()).collect();
    let mut left: Vec<_> = left.iter().map(|found| found.finding.kind()).collect();
    left.sort_unstable();
    ensure(left == sorted(&case.left), || format!("left {left:?}, {:?}", repaired.notes))?;
    let again = bench.check(Options::default());
    ensure(kinds(&again) == left, || format!("found after the repair: {:#?}", said(&again)))?;
    let errors = |report: &Report| {
        report.findings.iter().filter(|found| found.finding.severity() > Severity::Note).count()
    };
    let corrected = if errors(&repaired) > errors(&again) { 1 } else { 0 };
    let code = corrected | if errors(&again) > 0 { 4 } else { 0 };
    ensure(repaired.exit_code() == code, || format!("exit code {} instead of {code}", repaired.exit_code()))?;
    // What was there is there still, but what the report says was rewritten or removed.
    let rewritten: BTreeSet<_> = repaired
        .findings
        .iter()
        .filter(|found| found.repaired.as_ref().is_some_and(|how| !how.starts_with("moved")))
        .map(|found| found.place.backing.clone())
        .collect();
    let after = all_contents(&bench.volume());
    for (digest, path) in &before {
        let own = path.to_str().unwrap().starts_with("kmsfs.volume") || path.as_os_str() == "kmsfs.index";
        ensure(own || rewritten.contains(path) || after.contains_key(digest), || {
            format!("{path:?} is gone")
        })?;
    }
    Ok(())
}

fn others_read_back(bench: &Bench, case: &Case) -> Result<(), String> {
    let fs = bench.mount_read_only();
    for (path, chunks) in FILES {
        let lost = case.lost.contains(&path);
        ensure(lost || reads_back(&fs, path, chunks), || format!("{path} does not read back"))?;
    }
    let links_hurt = ["link", "target"].iter().any(|word| case.name.contains(word));
    for (name, len) in LINKS {
        let target = lookup(&fs, name).map(|ino| fs.readlink(ino).unwrap().len());
        ensure(links_hurt || target == Some(len), || format!("{name} does not read back"))?;
    }
    let dir = lookup(&fs, "dir").unwrap();
    let key = fs.getxattr(dir, OsStr::new(KEY_XATTR)).unwrap_or_default();
    ensure(key == bench.keys[1].as_bytes(), || "the directory has lost its key".to_owned())
}
