//! Files in memory: shared and private mappings, alone and with reads and writes beside them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use common::child::{self, Child};
use common::pair::{Pair, outcome, pattern};
use common::sys::Mapping;
use rustix::mm::{MapFlags, ProtFlags};

const LEN: usize = 100_000;

#[test]
fn child() {
    child::play(&[("map", map)]);
}

/// Maps a file and reads or writes single bytes of it as told: `r OFFSET`, `w OFFSET BYTE`, `s`.
fn map(path: &Path) {
    let file = open(path);
    let mapping = Mapping::shared(&file, LEN).unwrap();
    child::say("mapped");
    loop {
        let said = child::listen();
        let words: Vec<&str> = said.split(' ').collect();
        match words[..] {
            ["r", at] => child::say(&mapping.read(at.parse().unwrap(), 1)[0].to_string()),
            ["w", at, byte] => {
                mapping.write(at.parse().unwrap(), &[byte.parse().unwrap()]);
                child::say("done");
            }
            ["s"] => {
                mapping.sync().unwrap();
                child::say("done");
            }
            _ => return,
        }
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// A file of `LEN` bytes on the mount.
fn file(pair: &Pair) -> (std::path::PathBuf, File) {
    let path = pair.fresh()[1].join("file");
    fs::write(&path, pattern(1, LEN)).unwrap();
    let file = open(&path);
    (path, file)
}

#[test]
fn what_is_written_to_a_shared_mapping_is_in_the_file() {
    let Some(pair) = Pair::new("what_is_written_to_a_shared_mapping", "") else { return };
    let (path, file) = file(&pair);
    let mapping = Mapping::shared(&file, LEN).unwrap();
    assert!(mapping.read(0, LEN) == pattern(1, LEN));
    mapping.write(4060, b"across chunks");
    let mut found = [0; 13];
    file.read_exact_at(&mut found, 4060).unwrap();
    assert_eq!(&found, b"across chunks");
    file.write_all_at(b"by write", 50_000).unwrap();
    assert_eq!(mapping.read(50_000, 8), b"by write");
    mapping.write(LEN - 3, b"end");
    mapping.sync().unwrap();
    // The daemon has it now, without an fsync or a close: it survives the daemon's end.
    let expected = fs::read(&path).unwrap();
    drop((mapping, file));
    pair.remount();
    let found = fs::read(&path).unwrap();
    assert!(found == expected && &found[4060..4073] == b"across chunks" && found.ends_with(b"end"));
}

#[test]
fn an_msync_outlives_the_daemon() {
    let Some(pair) = Pair::new("an_msync_outlives_the_daemon", "") else { return };
    let (path, file) = file(&pair);
    file.sync_all().unwrap();
    let mapping = Mapping::shared(&file, LEN).unwrap();
    mapping.write(10_000, b"msync");
    mapping.sync().unwrap();
    drop((mapping, file));
    pair.world.kill(&pair.mount);
    pair.world.mount("vol", &[]);
    assert_eq!(&fs::read(&path).unwrap()[10_000..10_005], b"msync");
}

#[test]
fn a_private_mapping_keeps_its_writes_to_itself() {
    let Some(pair) = Pair::new("a_private_mapping_keeps_its_writes_to_itself", "") else { return };
    pair.alike("MAP_PRIVATE", |dir| {
        let path = dir.join("file");
        fs::write(&path, pattern(1, LEN)).unwrap();
        let reader = File::open(&path).unwrap();
        let mapping = Mapping::private(&reader, LEN).unwrap();
        mapping.write(100, b"private");
        open(&path).write_all_at(b"public!", 100).unwrap();
        // A page that was not copied yet shows the file.
        open(&path).write_all_at(b"later", 60_000).unwrap();
        (mapping.read(100, 7), mapping.read(60_000, 5), fs::read(&path).unwrap())
    });
}

#[test]
fn processes_that_map_a_file_see_each_other_at_once() {
    let Some(pair) = Pair::new("processes_that_map_a_file_see_each_other", "") else { return };
    let (path, file) = file(&pair);
    let mapping = Mapping::shared(&file, LEN).unwrap();
    let mut other = Child::start("map", &path);
    assert_eq!(other.hear(), "mapped");
    for (at, byte) in [(0, 7), (4063, 8), (4064, 9), (LEN - 1, 10)] {
        assert_eq!(other.ask(&format!("w {at} {byte}")), "done");
        assert_eq!(mapping.read(at, 1), [byte]);
        mapping.write(at, &[byte + 100]);
        assert_eq!(other.ask(&format!("r {at}")), (byte + 100).to_string());
        file.write_all_at(&[byte + 200], at as u64).unwrap();
        assert_eq!(other.ask(&format!("r {at}")), (byte + 200).to_string());
    }
    assert_eq!(other.ask("w 5 55"), "done");
    assert_eq!(other.ask("s"), "done");
    assert!(other.end().success());
    drop((mapping, file));
    pair.remount();
    assert_eq!(fs::read(&path).unwrap()[5], 55);
}

#[test]
fn a_mapping_follows_the_files_length() {
    let Some(pair) = Pair::new("a_mapping_follows_the_files_length", "") else { return };
    pair.alike("mappings and lengths", |dir| {
        let path = dir.join("file");
        fs::write(&path, pattern(1, 5000)).unwrap();
        let file = open(&path);
        let mapping = Mapping::shared(&file, 3 * 4096).unwrap();
        // The rest of the last page is zeros, and what is written there goes nowhere.
        let rest = mapping.read(5000, 3192);
        mapping.write(5001, b"nowhere");
        mapping.sync().unwrap();
        file.set_len(12_000).unwrap();
        let grown = mapping.read(4990, 7000);
        file.set_len(4100).unwrap();
        file.set_len(12_000).unwrap();
        (
            rest,
            grown.len(),
            mapping.read(4090, 100),
            fs::read(&path).unwrap()[..4990].to_vec(),
            grown[..10].to_vec(),
        )
    });
}

#[test]
fn a_page_behind_the_end_of_the_file_faults() {
    let Some(pair) = Pair::new("a_page_behind_the_end_of_the_file_faults", "") else { return };
    let (path, file) = file(&pair);
    let mut other = Child::start("map", &path);
    assert_eq!(other.hear(), "mapped");
    assert_eq!(other.ask("r 60000"), pattern(1, LEN)[60_000].to_string());
    file.set_len(50_000).unwrap();
    assert_eq!(other.ask("r 49999"), pattern(1, LEN)[49_999].to_string());
    assert_eq!(other.ask("r 60000"), "");
    assert_eq!(other.end().signal(), Some(libc::SIGBUS));
}

#[test]
fn a_mapping_may_do_what_the_handle_may() {
    let Some(pair) = Pair::new("a_mapping_may_do_what_the_handle_may", "") else { return };
    pair.alike("protections", |dir| {
        let path = dir.join("file");
        fs::write(&path, pattern(1, 5000)).unwrap();
        let (reader, writer) = (File::open(&path).unwrap(), File::options().write(true).open(&path).unwrap());
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let try_map = |file, protection, flags| outcome(Mapping::new(file, 4096, protection, flags));
        (
            try_map(&reader, both, MapFlags::SHARED),
            try_map(&reader, both, MapFlags::PRIVATE),
            try_map(&reader, ProtFlags::READ, MapFlags::SHARED),
            try_map(&reader, ProtFlags::READ | ProtFlags::EXEC, MapFlags::PRIVATE),
            try_map(&writer, ProtFlags::WRITE, MapFlags::SHARED),
        )
    });
}

#[test]
fn a_program_can_be_run_from_the_mount() {
    let Some(pair) = Pair::new("a_program_can_be_run_from_the_mount", "") else { return };
    let program = pair.mount.join("program");
    fs::copy("/bin/true", &program).unwrap();
    // The kernel may still be writing; a running program is busy, and so is one that is written.
    let writer = open(&program);
    let status = std::process::Command::new(&program).status();
    assert_eq!(outcome(status), Err(libc::ETXTBSY));
    drop(writer);
    // Processes that other tests start have the descriptor for a moment, too.
    let run = || std::process::Command::new(&program).status();
    common::wait_until("the program can be run", || run().is_ok_and(|status| status.success()));
}
