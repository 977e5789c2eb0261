//! What is destroyed is gone: from memory, from the key store's files and from the blocks that these
//! leave behind, whatever happens to the machine meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]
#![allow(clippy::duplicate_mod, reason = "the disk in memory and what mounts need bring the same dice")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../memory_disk/mod.rs"]
mod memory_disk;
#[path = "../clients/serving.rs"]
mod serving;

mod command_line;
mod crashes;
mod memory;

use std::fs;
use std::path::Path;

use memory_disk::contains;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const MATERIAL: TableDefinition<'static, [u8; 32], &'static [u8]> = TableDefinition::new("material");

/// The sealed rows of material in a store's file that nobody has open.
fn sealed_material(file: &Path) -> Vec<Vec<u8>> {
    let database = Database::open(file).unwrap();
    let table = database.begin_read().unwrap().open_table(MATERIAL).unwrap();
    table.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()).collect()
}

/// Whether any file below a directory has the bytes.
fn dir_contains(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            dir_contains(&path, bytes)
        } else {
            // Sockets cannot be read, and hold nothing.
            fs::read(path).is_ok_and(|all| contains(&all, bytes))
        }
    })
}

#[test]
fn bytes_are_found_wherever_they_are() {
    assert!(contains(b"aab", b"ab") && contains(b"ab", b"ab") && contains(b"xaby", b"ab"));
    assert!(!contains(b"aa", b"ab") && !contains(b"a", b"ab") && !contains(b"", b"ab"));
    assert!(!contains(b"b", b"ab") && contains(b"a", b"a"));
}

/// Not a test: what other processes do.
#[test]
fn child() {
    common::child::play(&[("key service", memory::key_service)]);
}
