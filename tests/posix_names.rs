//! Names, paths and targets of links: any bytes, up to the lengths that Linux has.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::pair::{Pair, errno, outcome, pattern, seen};
use common::user::ROOT;

/// All bytes that a name can have.
fn name_bytes() -> Vec<u8> {
    (1..=255).filter(|&b| b != b'/').collect()
}

fn listed(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn every_byte_makes_a_name() {
    let Some(pair) = Pair::new("every_byte_makes_a_name", "") else { return };
    let dir = pair.fresh()[1].clone();
    let mut names = BTreeSet::new();
    for byte in name_bytes() {
        for name in [vec![byte], vec![byte; 2], [&b"a"[..], &[byte], b"z"].concat(), vec![byte; 255]] {
            // These are directories.
            if name != b"." && name != b".." {
                names.insert(OsString::from_vec(name));
            }
        }
    }
    names.insert(OsString::from_vec(name_bytes()));
    for name in &names {
        fs::write(dir.join(name), name.as_bytes()).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(listed(&dir), names);
        for name in &names {
            assert_eq!(fs::read(dir.join(name)).unwrap(), name.as_bytes());
        }
        pair.remount();
    }
    for name in &names {
        fs::remove_file(dir.join(name)).unwrap();
    }
    assert!(listed(&dir).is_empty());
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn names_of_every_length_do_everything() {
    let Some(pair) = Pair::new("names_of_every_length_do_everything", "") else { return };
    let lengths = [
        1, 15, 16, 17, 111, 112, 127, 128, 143, 144, 159, 160, 161, 175, 176, 177, 200, 239, 240, 241, 254,
        255, 256, 300,
    ];
    pair.alike("names by length", |dir| {
        let mut said = Vec::new();
        for len in lengths {
            let name = |first: &str| dir.join(format!("{first}{}", "n".repeat(len - 1)));
            said.push((
                len,
                outcome(fs::write(name("a"), "x")),
                outcome(fs::create_dir(name("b"))),
                outcome(symlink("target", name("c"))),
                outcome(fs::hard_link(name("a"), name("d"))),
                outcome(fs::rename(name("a"), name("e"))),
                outcome(fs::rename(name("b"), name("f"))),
                outcome(fs::metadata(name("a"))),
                outcome(fs::remove_file(name("d"))),
                seen(name("e")),
                errno(fs::read_link(name("c"))),
            ));
        }
        (said, listed(dir))
    });
}

#[test]
fn an_upper_case_name_is_another_one() {
    let Some(pair) = Pair::new("an_upper_case_name_is_another_one", "") else { return };
    pair.alike("names that look alike", |dir| {
        // Composed and decomposed; case; a trailing space or dot.
        for (i, name) in ["é", "e\u{301}", "a", "A", "a ", "a.", " a"].iter().enumerate() {
            fs::write(dir.join(name), i.to_string()).unwrap();
        }
        listed(dir)
    });
}

#[test]
fn paths_have_up_to_4095_bytes() {
    let Some(pair) = Pair::new("paths_have_up_to_4095_bytes", "") else { return };
    pair.alike("long paths", |dir| {
        ROOT.run(|| {
            std::env::set_current_dir(dir).unwrap();
            // Fifteen times 255 and a slash, then 255 again: 4095 bytes.
            let (mut made, mut said) = (PathBuf::new(), Vec::new());
            for level in 0..15u8 {
                made.push(OsStr::from_bytes(&vec![b'a' + level; 255]));
                fs::create_dir(&made).unwrap();
            }
            for len in [254, 255, 256] {
                let path = made.join("f".repeat(len));
                said.push((
                    path.as_os_str().len(),
                    outcome(fs::write(&path, "deep")),
                    errno(fs::read(&path)),
                ));
            }
            // Deeper than any path reaches, step by step.
            std::env::set_current_dir(&made).unwrap();
            for _ in 0..5 {
                fs::create_dir("d".repeat(255)).unwrap();
                std::env::set_current_dir("d".repeat(255)).unwrap();
            }
            fs::write("deepest", "here").unwrap();
            said.push((0, outcome(std::env::current_dir()), errno(fs::read("deepest"))));
            said
        })
    });
    pair.remount();
    ROOT.run(|| {
        std::env::set_current_dir(pair.mount.join("round-0")).unwrap();
        let path: PathBuf = (0..15u8).map(|level| OsString::from_vec(vec![b'a' + level; 255])).collect();
        assert_eq!(fs::read(path.join("f".repeat(255))).unwrap(), b"deep");
    });
    // Relative to each directory in turn, for its path is too long for anything else.
    fs::remove_dir_all(pair.mount.join("round-0")).unwrap();
}

#[test]
fn links_point_to_targets_of_up_to_4095_bytes() {
    let Some(pair) = Pair::new("links_point_to_targets_of_up_to_4095_bytes", "") else { return };
    let lengths = [1, 16, 255, 1000, 3039, 3040, 3041, 3500, 4000, 4079, 4080, 4094, 4095, 4096, 5000];
    let target = |len: usize| OsString::from_vec(pattern(len as u64, len));
    pair.alike("targets", |dir| {
        lengths.map(|len| {
            let path = dir.join(len.to_string());
            (outcome(symlink(target(len), &path)), errno(fs::read_link(&path)), seen(&path))
        })
    });
    let look = |dir: &Path| {
        lengths.map(|len| (errno(fs::read_link(dir.join(len.to_string()))), seen(dir.join(len.to_string()))))
    };
    let dir = pair.mount.join("round-0");
    let before = look(&dir);
    pair.remount();
    assert_eq!(look(&dir), before);
    // Moved, linked, exchanged and removed, they stay what they are.
    for len in lengths.into_iter().filter(|&len| len < 4096) {
        let (old, new) = (dir.join(len.to_string()), dir.join("n".repeat(200)));
        fs::rename(&old, &new).unwrap();
        fs::hard_link(&new, dir.join("hard")).unwrap();
        assert_eq!(fs::read_link(dir.join("hard")).unwrap().into_os_string(), target(len));
        fs::remove_file(dir.join("hard")).unwrap();
        assert_eq!(fs::read_link(&new).unwrap().into_os_string(), target(len));
        fs::remove_file(&new).unwrap();
    }
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn links_lead_where_they_lead_elsewhere() {
    let Some(pair) = Pair::new("links_lead_where_they_lead_elsewhere", "") else { return };
    pair.alike("following links", |dir| {
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "here").unwrap();
        let long = format!("{}sub/file", "./".repeat(2000));
        for (name, target) in [
            ("a", "sub/file"),
            ("b", "a"),
            ("up", "sub/../b"),
            ("loop", "loop"),
            ("long", &long),
            ("slash", "a/"),
            ("dir", "sub"),
        ] {
            let _ = symlink(target, dir.join(name));
        }
        ["a", "b", "up", "loop", "long", "slash", "dir", "dir/file", "a/x"].map(|name| {
            let read = errno(fs::read(dir.join(name)));
            (
                name,
                read,
                outcome(File::open(dir.join(name))),
                errno(fs::metadata(dir.join(name)).map(|m| m.is_dir())),
            )
        })
    });
}
