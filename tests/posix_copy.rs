//! Copying within the kernel: copy_file_range, sendfile, splice; also from one key to another.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::pair::{Pair, errno, outcome, pattern};
use rustix::fs::copy_file_range;
use rustix::pipe::{SpliceFlags, pipe, splice};

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn copy_file_range_copies_what_was_asked_for() {
    let Some(pair) = Pair::new("copy_file_range_copies_what_was_asked_for", "") else { return };
    pair.alike("copy_file_range", |dir| {
        let (source, target) = (open(&dir.join("source")), open(&dir.join("target")));
        source.write_all_at(&pattern(1, 300_000), 0).unwrap();
        target.write_all_at(&pattern(2, 50_000), 0).unwrap();
        let mut said = Vec::new();
        let mut copy = |from: &File, at: u64, to: &File, behind: u64, len: usize| {
            let (mut at, mut behind) = (at, behind);
            said.push((errno(copy_file_range(from, Some(&mut at), to, Some(&mut behind), len)), at, behind));
        };
        // Between files, over the end of both, from behind the end.
        copy(&source, 1, &target, 40_000, 100_000);
        copy(&source, 299_000, &target, 200_001, 5000);
        copy(&source, 300_000, &target, 0, 10);
        copy(&source, 400_000, &target, 0, 10);
        // Within a file, apart and overlapping.
        copy(&source, 0, &source, 100_000, 99_999);
        copy(&source, 0, &source, 50, 1000);
        copy(&source, 0, &source, 300_000, 7000);
        // Through a handle that may not.
        let reader = File::open(dir.join("target")).unwrap();
        copy(&source, 0, &reader, 0, 10);
        copy(&File::open(dir).unwrap(), 0, &target, 0, 10);
        (said, fs::read(dir.join("source")).unwrap(), fs::read(dir.join("target")).unwrap())
    });
}

#[test]
fn a_copy_has_the_key_of_where_it_lands_and_shares_no_ciphertext() {
    let Some(pair) = Pair::new("a_copy_has_the_key_of_where_it_lands", "") else { return };
    let world = &pair.world;
    let [a, b] = ["a", "b"].map(|name| {
        world.run(&["key", "create", "--alias", name]);
        let dir = pair.mount.join(name);
        fs::create_dir(&dir).unwrap();
        world.run(&["key", "assign", &format!("alias/{name}"), dir.to_str().unwrap()]);
        dir
    });
    let contents = pattern(1, 200_000);
    fs::write(a.join("file"), &contents).unwrap();
    let (from, to) = (File::open(a.join("file")).unwrap(), open(&b.join("copy")));
    let mut left = contents.len();
    while left > 0 {
        left -= copy_file_range(&from, None, &to, None, left).unwrap();
    }
    to.sync_all().unwrap();
    from.sync_all().unwrap();
    drop((from, to));
    let info = |path: &Path| world.json(&["file", "info", path.to_str().unwrap()])[0]["key_arn"].clone();
    assert_ne!(info(&a.join("file")), info(&b.join("copy")));

    let stored = |path: &Path| fs::read(pair.backing(path)).unwrap();
    let (one, other) = (stored(&a.join("file")), stored(&b.join("copy")));
    // Blocks of the cipher, wherever they lie, holes and header padding apart.
    let blocks: HashSet<&[u8]> = one[4096..].chunks(16).collect();
    assert!(blocks.len() > 12_000, "the file is stored");
    let shared =
        other[4096..].chunks(16).filter(|block| **block != [0; 16] && blocks.contains(block)).count();
    assert_eq!(shared, 0);

    world.run(&["key", "disable", "alias/a", "--yes"]);
    assert_eq!(outcome(fs::read(a.join("file"))), Err(libc::EKEYREVOKED));
    assert!(fs::read(b.join("copy")).unwrap() == contents);
    world.run(&["key", "enable", "alias/a"]);
    world.run(&["key", "disable", "alias/b", "--yes"]);
    assert!(fs::read(a.join("file")).unwrap() == contents);
    assert_eq!(outcome(fs::copy(a.join("file"), b.join("copy"))), Err(libc::EKEYREVOKED));
}

#[test]
fn sendfile_and_splice_pass_everything_on() {
    let Some(pair) = Pair::new("sendfile_and_splice_pass_everything_on", "") else { return };
    pair.alike("sendfile and splice", |dir| {
        let source = open(&dir.join("source"));
        source.write_all_at(&pattern(1, 500_000), 0).unwrap();
        let (sent, spliced) = (open(&dir.join("sent")), open(&dir.join("spliced")));
        let mut at = 100;
        while at < 450_000 {
            let left = 450_000 - at as usize;
            assert!(rustix::fs::sendfile(&sent, &source, Some(&mut at), left).unwrap() > 0);
        }
        let (read_end, write_end) = pipe().unwrap();
        let (mut from, mut to) = (7, 5000);
        loop {
            let filled =
                splice(&source, Some(&mut from), &write_end, None, 30_001, SpliceFlags::empty()).unwrap();
            let mut left = filled;
            while left > 0 {
                left -= splice(&read_end, None, &spliced, Some(&mut to), left, SpliceFlags::MOVE).unwrap();
            }
            if filled == 0 {
                break;
            }
        }
        (from, to, fs::read(dir.join("sent")).unwrap(), fs::read(dir.join("spliced")).unwrap())
    });
    for name in ["sent", "spliced"] {
        let [plain, ours] = [&pair.plain, &pair.mount].map(|root| root.join("round-0").join(name));
        pair.remount();
        assert!(fs::read(ours).unwrap() == fs::read(plain).unwrap(), "{name}");
    }
}

#[test]
fn copying_to_and_from_another_filesystem_works() {
    let Some(pair) = Pair::new("copying_to_and_from_another_filesystem_works", "") else { return };
    let [plain, ours] = pair.fresh();
    let contents = pattern(1, 123_456);
    fs::write(plain.join("file"), &contents).unwrap();
    fs::copy(plain.join("file"), ours.join("file")).unwrap();
    fs::copy(ours.join("file"), plain.join("back")).unwrap();
    assert!(fs::read(plain.join("back")).unwrap() == contents);
    // Renaming is not copying.
    assert_eq!(outcome(fs::rename(plain.join("file"), ours.join("new"))), Err(libc::EXDEV));
    assert_eq!(outcome(fs::hard_link(ours.join("file"), plain.join("new"))), Err(libc::EXDEV));
}
