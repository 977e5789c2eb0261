//! Whatever a person does wrong: one line that says what to do next, the documented exit code, and
//! nothing changed on disk.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ran, World, can_mount, is_root, run, tree};
use serde_json::Value;
use sha2::{Digest, Sha256};

const SECRET: &str = "correct horse battery staple 8c1f";
const VOLUME_PAGES: [&str; 2] = ["kmsfs.volume", "kmsfs.volume.copy"];
/// Bytes of a head with its checksum, and of what the checksum covers.
const HEAD: (usize, usize) = (512, 480);
const PAGE: usize = 4096;

// Unlocking.

#[test]
fn a_wrong_passphrase_is_refused() {
    let world = World::bare();
    let with = |passphrase: &str, arguments: &[&str]| {
        let mut command = world.locked_command(&[]);
        command.env("KMSFS_PASSPHRASE", passphrase).args(arguments);
        run(command)
    };
    with(SECRET, &["init", "volume"]).ok();
    for arguments in [&["key", "list"][..], &["mount", "volume", "volume.mnt"], &["init", "other"]] {
        if arguments[0] == "mount" && !can_mount("a_wrong_passphrase_is_refused") {
            continue;
        }
        unchanged(&world, || with("wrong", arguments)).fails(13, &["wrong passphrase or key file"]);
    }
    with(SECRET, &["key", "list"]).ok();
}

#[test]
fn a_wrong_key_file_is_refused() {
    let world = World::with_volume();
    let good = fs::read(world.path("key-file")).unwrap();
    for bad in [[0x5b; 32].to_vec(), [0x5a; 33].to_vec()] {
        fs::write(world.path("key-file"), bad).unwrap();
        refused(&world, &["key", "list"], 13, &["wrong passphrase or key file"]);
        refused(&world, &["init", "other"], 13, &["wrong passphrase or key file"]);
    }
    fs::write(world.path("key-file"), good).unwrap();
    world.try_run(&["key", "list"]).ok();
}

#[test]
fn a_missing_or_empty_secret_is_refused() {
    let world = World::with_volume();
    let ran = |set: &dyn Fn(&mut Command)| {
        let mut command = world.locked_command(&[]);
        set(&mut command);
        command.args(["key", "list"]);
        unchanged(&world, || run(command))
    };
    ran(&|_| {}).fails(24, &["--passphrase-file", "--key-file", "--passphrase-command", "KMSFS_PASSPHRASE"]);
    ran(&|command| {
        command.env("KMSFS_PASSPHRASE", "");
    })
    .fails(24, &["empty"]);
    ran(&|command| {
        command.args(["--key-file", "nowhere"]);
    })
    .fails(24, &["nowhere"]);
    ran(&|command| {
        command.args(["--passphrase-file", "nowhere"]);
    })
    .fails(24, &["nowhere"]);
    ran(&|command| {
        command.args(["--passphrase-command", "exit 3"]);
    })
    .fails(24, &["command failed", "3"]);
}

#[test]
fn every_source_of_secrets_unlocks() {
    for source in Source::ALL {
        let world = World::bare();
        for arguments in [&["init", "volume"][..], &["key", "list"]] {
            let mut command = source.command(&world);
            command.args(arguments);
            run(command).ok();
        }
        // And it is this secret that counts, not just any.
        let mut command = world.locked_command(&[]);
        command.env("KMSFS_PASSPHRASE", "another").args(["key", "list"]);
        run(command).fails(13, &[]);
    }
}

#[test]
fn no_secret_shows_in_the_process_list_the_environment_or_the_log() {
    if !can_mount("no_secret_shows_in_the_process_list_the_environment_or_the_log") {
        return;
    }
    for source in Source::ALL {
        let world = World::bare();
        for arguments in [&["init", "volume"][..], &["mount", "volume", "volume.mnt"]] {
            let mut command = source.command(&world);
            command.args(arguments);
            run(command).ok();
        }
        let daemons = world.daemons();
        assert_eq!(daemons.len(), 1);
        for process in fs::read_dir("/proc").unwrap() {
            let line = fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
            assert!(!contains(&line, SECRET), "{source:?}: {}", String::from_utf8_lossy(&line));
        }
        // Only root may look, for the process is not dumpable.
        let environment = fs::read(format!("/proc/{}/environ", daemons[0])).unwrap_or_default();
        for variable in environment.split(|&b| b == 0).filter(|variable| contains(variable, SECRET)) {
            assert!(matches!(source, Source::Variable), "{source:?}");
            assert!(variable.starts_with(b"KMSFS_PASSPHRASE="));
        }
        world.umount(&world.path("volume.mnt"));
        world.wait_for_daemons();
        for (path, (_, contents)) in tree(&world.path("keys")).into_iter().chain(tree(&world.path("volume")))
        {
            assert!(!contains(&contents, SECRET), "{source:?}: {}", path.display());
        }
    }
}

// Key stores.

#[test]
fn a_missing_key_store_is_refused() {
    let world = World::with_volume();
    fs::rename(world.path("keys"), world.path("elsewhere")).unwrap();
    for arguments in [&["key", "list"][..], &["key", "create"], &["key", "disable", "alias/default"]] {
        refused(&world, arguments, 14, &["no key store", "kmsfs init", "--keystore"]);
    }
    if can_mount("a_missing_key_store_is_refused") {
        refused(&world, &["mount", "volume", "volume.mnt"], 14, &["no key store", "--keystore"]);
    }
}

#[test]
fn a_key_store_that_is_none_is_refused() {
    let world = World::with_volume();
    fs::remove_dir_all(world.path("keys")).unwrap();
    fs::create_dir(world.path("keys")).unwrap();
    for nonsense in [&b""[..], b"nonsense", &[0; 8192]] {
        let file = world.path("keys").join("store.redb");
        fs::write(&file, nonsense).unwrap();
        refused(&world, &["key", "list"], 14, &["not a key store"]);
        assert_eq!(fs::read(&file).unwrap(), nonsense);
    }
}

#[test]
fn a_volume_of_another_key_store_is_refused() {
    if !can_mount("a_volume_of_another_key_store_is_refused") {
        return;
    }
    let (world, other) = (World::with_volume(), World::with_volume());
    let foreign = other.path("volume");
    refused(
        &world,
        &["mount", foreign.to_str().unwrap(), "volume.mnt"],
        15,
        &["another key store", "--keystore"],
    );
    let before = tree(&foreign);
    world.try_run(&["mount", foreign.to_str().unwrap(), "volume.mnt"]).fails(15, &[]);
    assert_eq!(tree(&foreign), before);
}

#[test]
fn an_unknown_key_is_refused() {
    let world = World::with_volume();
    let unknown = "0b1c2d3e-0000-4000-8000-000000000000";
    for key in ["alias/nope", unknown] {
        for command in ["describe", "enable", "disable", "rotate"] {
            refused(&world, &["key", command, key], 19, &[key]);
        }
        refused(&world, &["init", "--key", key, "other"], 19, &[key]);
    }
    if can_mount("an_unknown_key_is_refused") {
        world.mount("volume", &[]);
        fs::create_dir(world.path("volume.mnt").join("dir")).unwrap();
        world
            .try_run(&["key", "assign", "alias/nope", "volume.mnt/dir"])
            .fails(19, &["alias/nope", "kmsfs key list"]);
        world.try_run(&["key", "assign", "alias/nope", "volume.mnt"]).fails(19, &["alias/nope"]);
        world.umount(&world.path("volume.mnt"));
    }
}

#[test]
fn an_unknown_default_key_makes_no_key_store() {
    let world = World::bare();
    refused(&world, &["init", "--key", "alias/nope", "other"], 19, &["alias/nope", "leave out --key"]);
    assert!(!world.path("keys").exists());
}

#[test]
fn a_taken_or_bad_alias_is_refused_and_makes_no_key() {
    let world = World::with_volume();
    world.try_run(&["key", "create", "--alias", "photos"]).ok();
    let before = world.json(&["key", "list"]);
    assert_eq!(before.as_array().unwrap().len(), 2);
    for alias in ["photos", "alias/photos", "default"] {
        refused(&world, &["key", "create", "--alias", alias], 27, &["exists already", "another name"]);
    }
    for alias in ["", "two words", "alias/", "aws/x", &"x".repeat(300)] {
        refused(&world, &["key", "create", "--alias", alias], 2, &["alias"]);
    }
    assert_eq!(world.json(&["key", "list"]), before);
}

#[test]
fn a_disabled_key_is_not_rotated() {
    let world = World::with_volume();
    world.try_run(&["key", "disable", "alias/default", "--yes"]).ok();
    refused(&world, &["key", "rotate", "alias/default"], 20, &["is disabled; enable the key"]);
    if can_mount("a_disabled_key_is_not_rotated") {
        world.mount("volume", &[]);
        world.try_run(&["key", "rotate", "alias/default"]).fails(20, &["is disabled; enable the key"]);
        world.umount(&world.path("volume.mnt"));
    }
    world.try_run(&["key", "enable", "alias/default"]).ok();
    world.try_run(&["key", "rotate", "alias/default"]).ok();
}

// Volumes.

#[test]
fn a_directory_that_is_no_volume_is_refused() {
    let world = World::with_volume();
    fs::create_dir(world.path("empty")).unwrap();
    for dir in ["empty", "nowhere", "volume.mnt"] {
        refused(&world, &["mount", dir, "volume.mnt"], 10, &["is not a kmsfs volume", "kmsfs init"]);
    }
}

#[test]
fn a_volume_is_made_in_an_empty_directory_alone() {
    let world = World::with_volume();
    refused(&world, &["init", "volume"], 23, &["is a kmsfs volume already", "kmsfs mount"]);
    fs::create_dir(world.path("full")).unwrap();
    fs::write(world.path("full/file"), "mine").unwrap();
    refused(&world, &["init", "full"], 23, &["is not empty"]);
    refused(&world, &["init", "nowhere/volume"], 1, &["nowhere/volume", "check the path"]);
    refused(&world, &["init", "key-file"], 1, &["key-file", "check the path"]);
}

#[test]
fn a_volume_of_an_unknown_version_is_refused() {
    if !can_mount("a_volume_of_an_unknown_version_is_refused") {
        return;
    }
    let world = World::with_volume();
    for name in VOLUME_PAGES {
        change(&world.path("volume").join(name), |page| {
            for head in [0, PAGE - HEAD.0] {
                page[head + 8..head + 10].copy_from_slice(&99u16.to_le_bytes());
                let checksum = Sha256::digest(&page[head..head + HEAD.1]);
                page[head + HEAD.1..head + HEAD.0].copy_from_slice(&checksum);
            }
        });
    }
    refused(&world, &["mount", "volume", "volume.mnt"], 11, &["version 99", "newer"]);
}

#[test]
fn a_damaged_volume_is_refused() {
    if !can_mount("a_damaged_volume_is_refused") {
        return;
    }
    let world = World::with_volume();
    let good: Vec<_> =
        VOLUME_PAGES.iter().map(|name| fs::read(world.path("volume").join(name)).unwrap()).collect();
    for damaged in [0..PAGE, 0..HEAD.0, HEAD.0..PAGE - HEAD.0] {
        for (name, good) in VOLUME_PAGES.iter().zip(&good) {
            let mut page = good.clone();
            page[damaged.clone()].iter_mut().for_each(|byte| *byte ^= 0xa5);
            if damaged == (0..HEAD.0) {
                page[PAGE - HEAD.0..].iter_mut().for_each(|byte| *byte ^= 0xa5);
            }
            fs::write(world.path("volume").join(name), page).unwrap();
        }
        refused(&world, &["mount", "volume", "volume.mnt"], 11, &["damaged", "backup"]);
    }
    for name in VOLUME_PAGES {
        fs::write(world.path("volume").join(name), []).unwrap();
    }
    refused(&world, &["mount", "volume", "volume.mnt"], 11, &["backup"]);
}

#[test]
fn one_good_copy_of_the_volume_page_is_enough() {
    if !can_mount("one_good_copy_of_the_volume_page_is_enough") {
        return;
    }
    for name in VOLUME_PAGES {
        let world = World::with_volume();
        let page = world.path("volume").join(name);
        change(&page, |page| page.iter_mut().for_each(|byte| *byte ^= 0xa5));
        world.mount("volume", &[]);
        fs::write(world.path("volume.mnt").join("file"), "kept").unwrap();
        world.umount(&world.path("volume.mnt"));
        fs::remove_file(&page).unwrap();
        world.mount("volume", &[]);
        assert_eq!(fs::read(world.path("volume.mnt").join("file")).unwrap(), b"kept");
        world.umount(&world.path("volume.mnt"));
        assert!(page.exists(), "the copy is made anew");
    }
}

#[test]
fn a_full_disk_is_refused() {
    if !is_root("a_full_disk_is_refused") {
        return;
    }
    let world = World::with_volume();
    for (at, size) in [("small", "4k"), ("tiny", "4k")] {
        let dir = world.path(at);
        fs::create_dir(&dir).unwrap();
        assert!(common::mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], &dir));
    }
    // No room at all, and room for one of the two pages only.
    fs::write(world.path("tiny/file"), [1; PAGE]).unwrap();
    fs::create_dir(world.path("tiny/volume")).unwrap();
    refused(&world, &["init", "tiny/volume"], 18, &["no space left", "free some space"]);
    refused(&world, &["init", "small"], 18, &["no space left", "free some space"]);
    // The key store's.
    let mut command = Command::new(world.locked_command(&[]).get_program());
    command.current_dir(world.path("")).arg("--key-file").arg(world.path("key-file"));
    command.args(["--json", "--keystore", "small/keys", "init", "other"]);
    let before = tree(&world.path("small"));
    assert_eq!(error(&run(command)), 18);
    let left = tree(&world.path("small"));
    let left: Vec<_> = left.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(left.iter().all(|path| !path.to_str().unwrap().contains("redb")), "{left:?}");
}

#[test]
fn a_read_only_disk_is_read() {
    const TEST: &str = "a_read_only_disk_is_read";
    if !is_root(TEST) || !can_mount(TEST) {
        return;
    }
    let world = World::with_volume();
    let (disk, plain) = (world.path("disk"), world.path("volume.mnt"));
    fs::create_dir(&disk).unwrap();
    assert!(common::mount(&["-t", "tmpfs", "tmpfs"], &disk));
    fs::create_dir(disk.join("empty")).unwrap();
    world.try_run(&["init", "disk/volume"]).ok();
    world.try_run(&["mount", "disk/volume", "volume.mnt"]).ok();
    fs::create_dir(plain.join("dir")).unwrap();
    fs::write(plain.join("dir/file"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("dir/file", plain.join("link")).unwrap();
    let written = tree(&plain);
    world.umount(&world.path("volume.mnt"));
    // Until then its process writes to the key store.
    world.wait_for_daemons();
    assert!(common::mount(&["-o", "remount,ro"], &disk));

    refused(&world, &["mount", "disk/volume", "volume.mnt"], 17, &["read-only", "-o ro"]);
    refused(&world, &["init", "disk/empty"], 17, &["read-only"]);
    refused(&world, &["init", "disk/new"], 17, &["Read-only"]);
    let before = tree(&disk);
    world.try_run(&["mount", "-o", "ro", "disk/volume", "volume.mnt"]).ok();
    assert_eq!(tree(&plain), written);
    let refused = fs::write(plain.join("new"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    world.umount(&world.path("volume.mnt"));
    world.wait_for_daemons();
    assert_eq!(tree(&disk), before);
}

// Mounting.

#[test]
fn a_bad_mount_point_is_refused() {
    let world = World::with_volume();
    fs::create_dir(world.path("full")).unwrap();
    fs::write(world.path("full/file"), "mine").unwrap();
    fs::create_dir(world.path("volume").join("inside")).unwrap();
    for (mountpoint, words) in [
        ("full", &["is not empty", "-o nonempty"][..]),
        ("nowhere", &["does not exist", "create the directory"]),
        ("key-file", &["is not a directory"]),
        ("volume", &["within the other"]),
        ("volume/inside", &["within the other"]),
        (".", &["within the other"]),
        ("key-file/x", &["choose another mount point"]),
    ] {
        refused(&world, &["mount", "volume", mountpoint], 16, words);
    }
}

#[test]
fn an_unknown_mount_option_is_refused() {
    let world = World::with_volume();
    for option in ["frob", "ro,frob", "threads=none"] {
        refused(
            &world,
            &["mount", "-o", option, "volume", "volume.mnt"],
            2,
            &["unknown mount option", "--help"],
        );
    }
}

#[test]
fn an_implementation_of_the_cipher_that_does_not_run_here_is_refused() {
    let world = World::with_volume();
    // "copy" leaves contents unencrypted; only a build for measurements knows it.
    let copy = cfg!(not(feature = "copy-cipher")).then_some("copy");
    for name in ["", "rot13", "AVX512"].into_iter().chain(copy) {
        let with_name = || {
            let mut command = world.command(&["key", "list"]);
            command.env("KMSFS_AEAD", name);
            run(command)
        };
        unchanged(&world, with_name).fails(2, &[&format!("KMSFS_AEAD={name} "), "unset it", "portable"]);
    }
    let mut command = world.command(&["key", "list"]);
    command.env("KMSFS_AEAD", "portable");
    run(command).ok();
}

#[test]
fn a_volume_mounted_for_writing_is_not_mounted_again() {
    if !can_mount("a_volume_mounted_for_writing_is_not_mounted_again") {
        return;
    }
    let world = World::with_volume();
    fs::create_dir(world.path("second")).unwrap();
    world.mount("volume", &[]);
    let daemon = format!("by process {}", world.daemons()[0]);
    for options in ["rw", "ro"] {
        let ran = world.try_run(&["mount", "-o", options, "volume", "second"]);
        ran.fails(12, &["is mounted already", &daemon, "unmount it there first"]);
    }
    fs::write(world.path("volume.mnt").join("file"), "still works").unwrap();
    world.umount(&world.path("volume.mnt"));
    for mountpoint in ["volume.mnt", "second"] {
        world.try_run(&["mount", "-o", "ro", "volume", mountpoint]).ok();
    }
    world.try_run(&["umount", "second"]).ok();
    world.umount(&world.path("volume.mnt"));
}

#[test]
fn without_fuse_nothing_is_touched() {
    if !is_root("without_fuse_nothing_is_touched") {
        return;
    }
    let world = World::with_volume();
    let kmsfs = world.locked_command(&[]).get_program().to_owned();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs tmpfs /dev && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(kmsfs);
    command.arg("--keystore").arg(world.path("keys")).arg("--key-file").arg(world.path("key-file"));
    command.arg("mount").args([world.path("volume"), world.path("volume.mnt")]);
    unchanged(&world, || run(command)).fails(25, &["/dev/fuse", "modprobe fuse"]);
}

#[test]
fn what_is_not_mounted_is_neither_unmounted_nor_described() {
    let world = World::with_volume();
    for path in ["volume.mnt", "volume", "nowhere", "/"] {
        refused(&world, &["umount", path], 21, &["no kmsfs is mounted", "kmsfs status"]);
    }
    for path in ["key-file", "volume", "/proc/self/status"] {
        refused(&world, &["file", "info", path], 21, &["of a mounted volume"]);
    }
    refused(&world, &["file", "info", "nowhere"], 1, &["nowhere", "check the path"]);
    refused(&world, &["key", "assign", "alias/default", "volume.mnt"], 21, &["of a mounted volume"]);
    refused(&world, &["key", "assign", "alias/default", "key-file"], 2, &["is not a directory"]);
}

#[test]
fn a_busy_mount_stays() {
    if !can_mount("a_busy_mount_stays") {
        return;
    }
    let world = World::with_volume();
    world.mount("volume", &[]);
    let path = world.path("volume.mnt").join("file");
    fs::write(&path, "in use").unwrap();
    let open = fs::File::open(&path).unwrap();
    world.try_run(&["umount", "volume.mnt"]).fails(26, &["is busy", "then retry"]);
    assert_eq!(fs::read(&path).unwrap(), b"in use");
    drop(open);
    world.umount(&world.path("volume.mnt"));
}

// JSON.

#[test]
fn every_result_is_json_where_asked_for() {
    let world = World::bare();
    let json = |arguments: &[&str]| world.json(arguments);
    assert_eq!(json(&["status"])["Exists"], false);
    assert_eq!(json(&["init", "volume"])["Directory"], world.path("volume").to_str().unwrap());
    assert_eq!(json(&["status"])["Exists"], true);
    assert_eq!(json(&["key", "create", "--alias", "photos"])["KeyState"], "Enabled");
    assert_eq!(json(&["key", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(json(&["key", "describe", "alias/photos"])["Aliases"][0], "alias/photos");
    json(&["key", "disable", "alias/photos", "--yes"]);
    json(&["key", "enable", "alias/photos"]);
    assert_eq!(json(&["key", "rotate", "alias/photos"])["CurrentKeyMaterialVersion"], 2);
    assert!(json(&["bench", "--seconds", "0.01", "--chunk-size", "4K"]).is_array());
    if can_mount("every_result_is_json_where_asked_for") {
        world.mount("volume", &[]);
        fs::create_dir(world.path("volume.mnt").join("dir")).unwrap();
        json(&["key", "assign", "alias/photos", "volume.mnt/dir"]);
        fs::write(world.path("volume.mnt").join("dir/file"), "x").unwrap();
        let info = json(&["file", "info", "volume.mnt/dir/file", "volume.mnt/dir", "volume.mnt"]);
        assert_eq!(info[0]["key_version"], 2);
        assert_eq!(info[0]["key_aliases"][0], "alias/photos");
        assert_eq!(info.as_array().unwrap().len(), 3);
        let status = json(&["status"]);
        assert_eq!(status["Service"]["Mounts"][0]["Mountpoint"], world.path("volume.mnt").to_str().unwrap());
        json(&["key", "disable", "alias/photos", "--yes"]);
        assert_eq!(json(&["file", "info", "volume.mnt/dir/file"])[0]["size"], 1);
        world.umount(&world.path("volume.mnt"));
    }
}

#[test]
fn every_error_is_json_where_asked_for() {
    let world = World::with_volume();
    let code = |arguments: &[&str]| error(&world.try_run(&[&["--json"], arguments].concat()));
    assert_eq!(code(&["frobnicate"]), 2);
    assert_eq!(code(&["mount"]), 2);
    assert_eq!(code(&["mount", "--frob", "volume", "volume.mnt"]), 2);
    assert_eq!(code(&["bench", "--seconds", "never"]), 2);
    assert_eq!(code(&["mount", "-o", "frob", "volume", "volume.mnt"]), 2);
    assert_eq!(code(&["mount", "volume.mnt", "volume.mnt"]), 10);
    assert_eq!(code(&["mount", "volume", "nowhere"]), 16);
    assert_eq!(code(&["init", "volume"]), 23);
    assert_eq!(code(&["umount", "volume.mnt"]), 21);
    assert_eq!(code(&["file", "info", "volume"]), 21);
    assert_eq!(code(&["key", "describe", "alias/nope"]), 19);
    assert_eq!(code(&["key", "create", "--alias", "default"]), 27);
    let help = world.try_run(&["--json", "--help"]).ok();
    assert!(help.stdout.contains("Exit codes:"));
}

/// Where a secret can come from.
#[derive(Debug, Clone, Copy)]
enum Source {
    PassphraseFile,
    KeyFile,
    Command,
    Variable,
    PassphraseCredential,
    KeyFileCredential,
}

impl Source {
    const ALL: [Self; 6] = [
        Self::PassphraseFile,
        Self::KeyFile,
        Self::Command,
        Self::Variable,
        Self::PassphraseCredential,
        Self::KeyFileCredential,
    ];

    /// A command on the world's key store with [`SECRET`] from this source.
    fn command(self, world: &World) -> Command {
        let mut command = world.locked_command(&[]);
        let file = |name: &str| {
            let path = world.path(name);
            fs::write(&path, SECRET).unwrap();
            path
        };
        match self {
            Self::PassphraseFile => command.arg("--passphrase-file").arg(file("passphrase")),
            Self::KeyFile => command.arg("--key-file").arg(file("secret")),
            Self::Command => {
                command.arg("--passphrase-command").arg(format!("cat {}", file("passphrase").display()))
            }
            Self::Variable => command.env("KMSFS_PASSPHRASE", SECRET),
            Self::PassphraseCredential => {
                file("kmsfs.passphrase");
                command.env("CREDENTIALS_DIRECTORY", world.path(""))
            }
            Self::KeyFileCredential => {
                file("kmsfs.key-file");
                command.env("CREDENTIALS_DIRECTORY", world.path(""))
            }
        };
        command
    }
}

/// Runs a command that must be refused and change nothing.
#[track_caller]
fn refused(world: &World, arguments: &[&str], code: i32, words: &[&str]) {
    unchanged(world, || world.try_run(arguments)).fails(code, words);
}

/// Does something that must change no file of the world.
#[track_caller]
fn unchanged(world: &World, f: impl FnOnce() -> Ran) -> Ran {
    let before = everything(world);
    let ran = f();
    assert_eq!(everything(world), before, "{ran:?}");
    ran
}

/// The world's files. Of the key store only that they are there: merely opening its database
/// changes bytes in it. Without the log, which has what was refused.
fn everything(world: &World) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut files = tree(&world.path(""));
    let store = world.path("keys");
    files.retain(|path, _| !["lock", "socket"].iter().any(|name| *path == store.join(name)));
    files.retain(|path, _| !path.starts_with(store.join("audit")));
    if let Some((_, contents)) = files.get_mut(&store.join("store.redb")) {
        contents.clear();
    }
    files
}

/// The exit code in a JSON error, which is also the command's.
#[track_caller]
fn error(ran: &Ran) -> i32 {
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert!(!error["error"].as_str().unwrap().is_empty());
    assert_eq!(error["exit_code"], ran.code);
    ran.code
}

fn change(path: &Path, f: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path).unwrap();
    f(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn contains(bytes: &[u8], text: &str) -> bool {
    let text = Path::new(text).as_os_str().as_bytes();
    bytes.windows(text.len()).any(|part| part == text)
}
