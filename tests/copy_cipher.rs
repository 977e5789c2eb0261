//! A build with the feature `copy-cipher` that leaves contents unencrypted says so, and nobody takes
//! what it wrote for encrypted: not another build, nor this one without the variable. That a build
//! without the feature refuses the variable is in `cli_errors`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, World, run};

const TEXT: &[u8] = b"nothing of this is encrypted";

#[test]
fn what_was_copied_reads_as_forged_by_a_cipher() {
    let Some(world) = World::new("what_was_copied_reads_as_forged_by_a_cipher") else { return };
    world.run(&["init", "volume"]);
    let said = mount(&world, "copy").ok().stderr;
    assert!(said.starts_with("kmsfs: warning: CONTENTS OF FILES ARE NOT ENCRYPTED"), "{said}");
    fs::write(world.path("volume.mnt/copied"), TEXT).unwrap();
    assert_eq!(fs::read(world.path("volume.mnt/copied")).unwrap(), TEXT);
    world.umount(&world.path("volume.mnt"));
    assert!(shows(&world.path("volume"), TEXT), "the text is not in the backing directory");
    assert!(!shows(&world.path("volume"), b"copied"), "names are encrypted all the same");
    let log = world.path("keys/log");
    assert!(shows(&log, b"CONTENTS OF FILES ARE NOT ENCRYPTED"), "the log does not say so");

    world.mount("volume", &[]);
    assert_eq!(errno(&world.path("volume.mnt/copied")), Some(libc::EIO));
    fs::write(world.path("volume.mnt/sealed"), TEXT).unwrap();
    world.umount(&world.path("volume.mnt"));

    mount(&world, "copy").ok();
    assert_eq!(errno(&world.path("volume.mnt/sealed")), Some(libc::EIO), "ciphertext is not contents");
    assert_eq!(fs::read(world.path("volume.mnt/copied")).unwrap(), TEXT);
}

#[test]
fn without_the_variable_contents_are_encrypted() {
    let Some(world) = World::new("without_the_variable_contents_are_encrypted") else { return };
    world.volume("volume");
    fs::write(world.path("volume.mnt/sealed"), TEXT).unwrap();
    world.umount(&world.path("volume.mnt"));
    assert!(!shows(&world.path("volume"), TEXT));
}

fn mount(world: &World, implementation: &str) -> Ran {
    let mut command = world.command(&["mount", "volume", "volume.mnt"]);
    command.env("KMSFS_AEAD", implementation);
    run(command)
}

fn errno(file: &Path) -> Option<i32> {
    fs::read(file).unwrap_err().raw_os_error()
}

/// Whether a name or a file in a directory, or below, contains `text`.
fn shows(dir: &Path, text: &[u8]) -> bool {
    let contains = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).any(|entry| {
        let is_dir = entry.file_type().unwrap().is_dir();
        contains(entry.file_name().as_encoded_bytes())
            || if is_dir { shows(&entry.path(), text) } else { contains(&fs::read(entry.path()).unwrap()) }
    })
}
