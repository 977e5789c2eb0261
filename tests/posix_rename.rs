//! Renaming: over open files, without replacing, exchanging.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use common::pair::{Pair, errno, outcome, pattern, seen};
use rustix::fs::{CWD, RenameFlags, renameat_with};

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), i32> {
    outcome(renameat_with(CWD, from, CWD, to, flags))
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn renaming_over_open_files_disturbs_no_handle() {
    let Some(pair) = Pair::new("renaming_over_open_files_disturbs_no_handle", "") else { return };
    pair.alike("rename over open files", |dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        fs::write(&a, pattern(1, 9000)).unwrap();
        fs::write(&b, pattern(2, 5000)).unwrap();
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let (moved, replaced) = (open(&a), open(&b));
        fs::rename(&a, &b).unwrap();
        moved.write_all_at(b"moved", 8998).unwrap();
        replaced.write_all_at(b"replaced", 4999).unwrap();
        let contents = |file: &File| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            (bytes, file.metadata().unwrap().nlink())
        };
        (contents(&moved), contents(&replaced), fs::read(&b).unwrap(), names(dir))
    });
    pair.remount();
    let expected = [pattern(1, 8998), b"moved".to_vec()].concat();
    assert!(fs::read(pair.mount.join("round-0/b")).unwrap() == expected);
}

#[test]
fn noreplace_replaces_nothing() {
    let Some(pair) = Pair::new("noreplace_replaces_nothing", "") else { return };
    let said = pair.answer_alike("RENAME_NOREPLACE", |dir| {
        fs::write(dir.join("a"), "a").unwrap();
        fs::write(dir.join("b"), "b").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        let mut said = Vec::new();
        for (from, to) in [("a", "b"), ("a", "d"), ("d", "a"), ("a", "a"), ("absent", "b"), ("absent", "new")]
        {
            said.push(rename(&dir.join(from), &dir.join(to), RenameFlags::NOREPLACE));
        }
        said.push(errno(fs::read(dir.join("b"))).map(|b| assert_eq!(b, b"b")));
        said.push(rename(&dir.join("a"), &dir.join("new"), RenameFlags::NOREPLACE));
        (said, names(dir))
    });
    assert_eq!(said.0[0], Err(libc::EEXIST));
    assert_eq!(said.1, ["b", "d", "new"]);
}

#[test]
fn exchange_swaps_files_directories_and_one_for_the_other() {
    let Some(pair) = Pair::new("exchange_swaps_files_directories_and_one_for_the_other", "") else { return };
    let look = |dir: &Path| {
        let all = |dir: &Path| names(dir).iter().map(|n| (n.clone(), seen(dir.join(n)))).collect::<Vec<_>>();
        (all(dir), all(&dir.join("p")), all(&dir.join("q")), seen(dir.join("p")), seen(dir.join("q")))
    };
    let long = "l".repeat(250);
    pair.alike("RENAME_EXCHANGE", |dir| {
        for name in ["p", "q", "p/dir", "q/dir"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(dir.join("p/file"), "in p").unwrap();
        fs::write(dir.join("q/file"), "in q, longer").unwrap();
        fs::write(dir.join("p/dir/inner"), "inner").unwrap();
        fs::write(dir.join("q").join(&long), "under a long name").unwrap();
        symlink("target", dir.join("p/link")).unwrap();
        let held = File::open(dir.join("p/file")).unwrap();
        let swap = |a: &str, b: &str| rename(&dir.join(a), &dir.join(b), RenameFlags::EXCHANGE);
        let mut said = vec![
            (swap("p/file", "q/file"), look(dir)),
            // Not empty, and into one that is.
            (swap("p/dir", "q/dir"), look(dir)),
            (swap("p/file", "q/dir"), look(dir)),
            (swap("p/link", &format!("q/{long}")), look(dir)),
            (swap("p/link", "p/absent"), look(dir)),
            // Into what lies below itself.
            (swap("q", "q/file"), look(dir)),
            (swap("p", "q"), look(dir)),
        ];
        let mut bytes = [0; 4];
        held.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"in p");
        said.push((outcome::<_, io::Error>(fs::read_link(dir.join("q").join(&long))), look(dir)));
        said
    });
    let before = look(&pair.mount.join("round-0"));
    pair.remount();
    assert_eq!(look(&pair.mount.join("round-0")), before);
    assert_eq!(fs::read(pair.mount.join("round-0/q/link")).unwrap(), b"under a long name");
}

#[test]
fn renaming_one_link_over_another_of_the_same_file_changes_nothing() {
    let Some(pair) = Pair::new("renaming_one_link_over_another", "") else { return };
    pair.alike("two names of one file", |dir| {
        fs::write(dir.join("a"), "x").unwrap();
        fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        let said =
            [("a", "b"), ("a", "a")].map(|(from, to)| outcome(fs::rename(dir.join(from), dir.join(to))));
        (said, names(dir), seen(dir.join("a")))
    });
}

#[test]
fn a_directory_replaces_an_empty_one_alone() {
    let Some(pair) = Pair::new("a_directory_replaces_an_empty_one_alone", "") else { return };
    pair.alike("rename over directories", |dir| {
        for name in ["from", "empty", "full", "full/x"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(dir.join("from/inner"), "kept").unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let go = |from: &str, to: &str| outcome(fs::rename(dir.join(from), dir.join(to)));
        let held = File::open(dir.join("empty")).unwrap();
        let said = [
            go("from", "full"),
            go("from", "file"),
            go("file", "empty"),
            go("from", "from/inner"),
            go("from", "from/new"),
            go("full", "full/x"),
            go("full/x", "full"),
            go("from", "empty"),
        ];
        (said, names(dir), fs::read(dir.join("empty/inner")).unwrap(), held.metadata().unwrap().nlink())
    });
}

#[test]
fn a_file_in_use_is_reached_under_every_name_it_is_given() {
    let Some(pair) = Pair::new("a_file_in_use_is_reached_under_every_name", "") else { return };
    let [_, dir] = pair.fresh();
    for sub in ["x", "y"] {
        fs::create_dir(dir.join(sub)).unwrap();
    }
    let file = File::create(dir.join("x/0")).unwrap();
    let mut at = dir.join("x/0");
    for round in 1..60usize {
        let name = if round % 3 == 0 { "n".repeat(200 + round % 50) } else { round.to_string() };
        let to = dir.join(if round % 2 == 0 { "x" } else { "y" }).join(name);
        fs::rename(&at, &to).unwrap();
        at = to;
        file.write_all_at(&pattern(round as u64, 500), 500 * (round as u64 - 1)).unwrap();
    }
    let expected: Vec<u8> = (1..60).flat_map(|round| pattern(round, 500)).collect();
    drop(file);
    pair.remount();
    assert!(fs::read(&at).unwrap() == expected);
    assert_eq!(names(&dir.join("x")).len() + names(&dir.join("y")).len(), 1);
}
