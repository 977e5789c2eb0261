//! Backups of the key store from the command line: made while it is in use, restored, refused when
//! they are not what they should be, kept up to date; and the recovery kit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{Ran, World, run, tree};
use kmsfs::clock::SystemClock;
use kmsfs::kms::api::KeyRequest;
use kmsfs::kms::{
    Caller, EncryptionContext, KeyState, Service, SystemDisk, UnlockSecret, parse_recovery_key, restore,
};
use kmsfs::secret::Passphrase;
use serde_json::Value;

// Making and restoring.

#[test]
fn a_lost_store_comes_back_from_a_backup_made_while_it_was_in_use() {
    let Some(world) = World::new("a_lost_store_comes_back_from_a_backup_made_while_it_was_in_use") else {
        return;
    };
    let mount = world.volume("volume");
    world.run(&["key", "create", "--alias", "photos"]);
    world.run(&["key", "assign", "alias/photos", mount.to_str().unwrap()]);
    fs::write(mount.join("before"), "a cat").unwrap();
    world.run(&["key", "rotate", "alias/photos"]);
    fs::write(mount.join("after"), "a dog").unwrap();
    let made = world.json(&["store", "backup", "backup"]);
    assert_eq!((made["Keys"].as_u64(), made["Versions"].as_u64()), (Some(3), Some(4)));
    let keys = world.json(&["key", "list"]);
    world.umount(&mount);
    world.wait_for_daemons();
    fs::remove_dir_all(world.path("keys")).unwrap();

    let restored = world.json_with_notes(&["store", "restore", "backup"]);
    assert_eq!(restored["StoreId"], made["StoreId"]);
    assert_eq!(world.json(&["key", "list"]), keys);
    let mount = world.mount("volume", &[]);
    assert_eq!(fs::read_to_string(mount.join("before")).unwrap(), "a cat");
    assert_eq!(fs::read_to_string(mount.join("after")).unwrap(), "a dog");
    world.umount(&mount);
}

#[test]
fn a_backup_is_not_written_over_unless_forced() {
    let world = World::with_volume();
    fs::write(world.path("letter"), "dear").unwrap();
    unchanged(&world, &["store", "backup", "letter"]).fails(27, &["letter exists already", "--force"]);
    unchanged(&world, &["store", "backup", "--auto", "letter"])
        .fails(27, &["letter exists already", "--force"]);
    world.run(&["store", "backup", "backup"]);
    unchanged(&world, &["store", "backup", "backup"]).fails(27, &["backup exists already"]);
    world.run(&["store", "backup", "letter", "--force"]);
    world.run(&["store", "check", "--backup", "letter"]);
    world.try_run(&["store", "backup", "nowhere/backup"]).fails(1, &["nowhere/backup", "No such file"]);
}

#[test]
fn a_store_is_replaced_only_by_force_and_kept_aside() {
    let world = World::with_volume();
    world.run(&["store", "backup", "backup"]);
    unchanged(&world, &["store", "restore", "backup"])
        .fails(27, &["holds this key store", "--force", "--keystore"]);
    let key = world.run(&["key", "create", "--alias", "new"]);
    let newer = unchanged(&world, &["store", "restore", "backup"]);
    newer.fails(31, &["holds this key store", key.trim(), "version 1", "--force"]);

    let restored = world.json_with_notes(&["store", "restore", "backup", "--force"]);
    assert_eq!(restored["Lost"].as_array().unwrap().len(), 1);
    world.try_run(&["key", "describe", "alias/new"]).fails(19, &["alias/new"]);
    let kept = restored["Kept"].as_str().unwrap();
    fs::rename(kept, world.path("keys/store.redb")).unwrap();
    world.run(&["key", "describe", "alias/new"]);

    let other = World::with_volume();
    fs::copy(world.path("backup"), other.path("backup")).unwrap();
    fs::copy(world.path("key-file"), other.path("key-file-of-backup")).unwrap();
    let mut command = other.locked_command(&["store", "restore", "backup", "--key-file"]);
    command.arg(other.path("key-file-of-backup"));
    run(command).fails(27, &["holds another key store", "--force"]);
}

#[test]
fn a_store_in_use_is_not_replaced() {
    let Some(world) = World::new("a_store_in_use_is_not_replaced") else { return };
    let mount = world.volume("volume");
    world.run(&["store", "backup", "backup"]);
    world.try_run(&["store", "restore", "backup", "--force"]).fails(22, &["in use"]);
    fs::write(mount.join("file"), "still served").unwrap();
    world.umount(&mount);
}

#[test]
fn whatever_is_wrong_with_a_backup_is_found_before_anything_changes() {
    let world = World::with_volume();
    world.run(&["key", "create", "--alias", "a"]);
    world.run(&["store", "backup", "backup"]);
    let whole = fs::read(world.path("backup")).unwrap();
    let refused = |bytes: &[u8], code: i32, words: &[&str]| {
        fs::write(world.path("bad"), bytes).unwrap();
        unchanged_by(&world, || in_store(&world, "elsewhere", &["store", "restore", "bad"]))
            .fails(code, words);
        assert!(!world.path("elsewhere").exists());
    };
    refused(b"", 30, &["not a backup"]);
    refused(&whole[4..], 30, &["not a backup"]);
    let mut newer = whole.clone();
    newer[8] = 2;
    refused(&newer, 30, &["format version 2", "newer release"]);
    for at in (20..whole.len()).step_by(whole.len() / 12) {
        let mut broken = whole.clone();
        broken[at] ^= 0x40;
        refused(&broken, 30, &["damaged", "checksum"]);
        refused(&whole[..at], 30, &["damaged"]);
    }
    // With a checksum that is right: forged, not damaged.
    let end = whole.len() - 32;
    for at in [12, end - 1, end - 60, end / 2] {
        let mut forged = whole[..end].to_vec();
        forged[at] ^= 0x40;
        forged.extend(<sha2::Sha256 as sha2::Digest>::digest(&forged));
        fs::write(world.path("bad"), forged).unwrap();
        let ran = unchanged_by(&world, || in_store(&world, "elsewhere", &["store", "restore", "bad"]));
        assert!([13, 30, 11].contains(&ran.code), "byte {at}: {ran:?}");
    }
    let mut command = world.locked_command(&["store", "restore", "backup", "--force"]);
    command.env("KMSFS_PASSPHRASE", "wrong");
    run(command).fails(13, &["wrong passphrase or key file"]);
    world.try_run(&["store", "restore", "nowhere"]).fails(1, &["nowhere", "No such file"]);
}

/// The file was made by version 0.1.0: a store with an unlock slot of every kind; a key with two
/// versions, the alias `alias/golden` and a data key wrapped by the first version; a disabled key;
/// a volume's key.
#[test]
fn a_backup_of_the_first_format_still_restores() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let recovery_key = fs::read(data.join("backup-v1.recovery-key")).unwrap();
    let secrets = [
        UnlockSecret::Passphrase(Passphrase::new(b"golden".to_vec())),
        UnlockSecret::KeyFile(Passphrase::new(vec![0x42; 32])),
        UnlockSecret::RecoveryKey(parse_recovery_key(&recovery_key).unwrap()),
    ];
    for secret in secrets {
        let dir = tempfile::tempdir().unwrap();
        restore(&SystemDisk, &data.join("backup-v1"), dir.path(), &secret, false).unwrap();
        let service = Service::open(dir.path(), &secret, Arc::new(SystemClock)).unwrap();
        let caller = Caller::current();
        let golden = KeyRequest { key_id: "alias/golden".to_owned() };
        let key = service.describe_key(&caller, &golden).unwrap();
        assert_eq!((key.current_key_material_version, key.description.as_str()), (2, "golden"));
        let info = service.store_info().unwrap();
        assert_eq!((info.keys, info.versions, info.slots.len()), (2, 4, 3));
        assert_eq!(info.internal_keys[0].description, "kmsfs volume 00000000-0000-0000-0000-000000000000");
        let states = service.status().keys;
        assert_eq!(states[&KeyState::Disabled.to_string()], 1);
        let blob = fs::read(data.join("backup-v1.data-key")).unwrap();
        let context = EncryptionContext::new().with("made", "once");
        let opened = service.decrypt_data_key(&caller, &blob, &context).unwrap();
        assert_eq!(opened.key_version, 1);
    }
}

// A backup that is kept.

#[test]
fn new_material_is_in_the_kept_backup_before_it_is_used() {
    let world = World::with_volume();
    fs::create_dir(world.path("disk")).unwrap();
    world.run(&["store", "backup", "--auto", "disk/backup"]);
    world.run(&["key", "create", "--alias", "a"]);
    world.run(&["store", "check"]);
    fs::rename(world.path("disk"), world.path("away")).unwrap();
    for refused in [&["key", "create"][..], &["key", "rotate", "alias/a"], &["init", "other"]] {
        let ran = unchanged(&world, refused);
        ran.fails(29, &["disk/backup", "could not be written", "nothing was changed", "--no-auto"]);
    }
    // What takes a key away does not wait for a disk.
    world.run(&["key", "disable", "alias/a", "--yes"]);
    world.try_run(&["store", "check"]).fails(1, &["disk/backup"]);
    fs::rename(world.path("away"), world.path("disk")).unwrap();
    assert!(world.json(&["store", "info"])["BackupBehind"].as_str().unwrap().contains("latest"));
    world.run(&["key", "enable", "alias/a"]);
    assert_eq!(world.json(&["store", "info"])["BackupBehind"], Value::Null);
    world.run(&["key", "rotate", "alias/a"]);
    in_store(&world, "rehearsal", &["store", "restore", "disk/backup"]).ok();
    let rehearsed = in_store(&world, "rehearsal", &["--json", "key", "list"]).ok().stdout;
    assert_eq!(serde_json::from_str::<Value>(&rehearsed).unwrap(), world.json(&["key", "list"]));
}

#[test]
fn a_kept_backup_can_be_given_up_when_its_disk_is_gone() {
    let world = World::with_volume();
    fs::create_dir(world.path("disk")).unwrap();
    world.run(&["store", "backup", "--auto", "disk/backup"]);
    fs::remove_dir_all(world.path("disk")).unwrap();
    world.try_run(&["key", "create"]).fails(29, &["--no-auto"]);
    world.run(&["store", "backup", "--no-auto"]);
    world.run(&["key", "create"]);
}

#[test]
fn two_stores_do_not_keep_one_backup() {
    let (world, other) = (World::with_volume(), World::with_volume());
    let backup = world.path("backup");
    world.run(&["store", "backup", "--auto", "backup"]);
    let taken = other.try_run(&["store", "backup", "--auto", backup.to_str().unwrap()]);
    taken.fails(27, &["exists already"]);
    // One's own is taken up again.
    world.run(&["store", "backup", "--no-auto"]);
    world.run(&["store", "backup", "--auto", "backup"]);
}

// What opens the store.

#[test]
fn a_recovery_kit_holds_no_secret_unless_it_is_asked_for() {
    let world = World::with_volume();
    let kit = world.run(&["store", "recovery-kit"]);
    let info = world.json(&["store", "info"]);
    let keys = world.json(&["key", "list"]);
    let volume =
        info["InternalKeys"][0]["Description"].as_str().unwrap().strip_prefix("kmsfs volume ").unwrap();
    for expected in [
        info["StoreId"].as_str().unwrap(),
        keys[0]["KeyId"].as_str().unwrap(),
        "alias/default",
        volume,
        world.path("keys").to_str().unwrap(),
        env!("CARGO_PKG_VERSION"),
        "store restore",
        "a key file (slot 0)",
    ] {
        assert!(kit.contains(expected), "lacks {expected}: {kit}");
    }
    assert!(!kit.contains("RECOVERY KEY,"));
    assert_eq!(world.json(&["store", "info"])["Slots"].as_array().unwrap().len(), 1);
}

#[test]
fn a_recovery_key_opens_the_store_and_typing_errors_are_found() {
    let world = World::with_volume();
    let kit = world.json(&["store", "recovery-kit", "--with-recovery-key"]);
    let lines: Vec<&str> =
        kit["RecoveryKey"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert_eq!(lines.len(), 4);
    let list = |typed: String| {
        fs::write(world.path("typed"), typed).unwrap();
        run(world.locked_command(&["--recovery-key-file", "typed", "--json", "key", "list"]))
    };
    let listed = list(lines.join(" ").to_lowercase()).ok().stdout;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap(), world.json(&["key", "list"]));
    let wrong = if lines[2].starts_with('A') { "B" } else { "A" };
    let third = format!("{wrong}{}", &lines[2][1..]);
    let mistyped = list([lines[0], lines[1], &third, lines[3]].join("\n"));
    assert_eq!(mistyped.code, 13);
    assert!(mistyped.stderr.contains("line 3"), "{}", mistyped.stderr);
    assert!(list(lines[..3].join("\n")).stderr.contains("64 letters"));
    // Backups that are made from now on open with it, too.
    world.run(&["store", "backup", "backup"]);
    fs::write(world.path("typed"), lines.join("\n")).unwrap();
    let restoring = ["--recovery-key-file", "typed", "store", "restore", "backup", "--force"];
    run(world.locked_command(&restoring)).ok();
}

#[test]
fn a_secret_is_changed_added_and_removed_by_whoever_knows_one() {
    let world = World::with_volume();
    fs::write(world.path("second"), "second\n").unwrap();
    fs::write(world.path("third"), [3; 32]).unwrap();
    let with =
        |options: &[&str], arguments: &[&str]| run(world.locked_command(&[options, arguments].concat()));
    let second = ["--passphrase-file", "second"];
    world.run(&["store", "passphrase", "--new-passphrase-file", "second"]);
    with(&["--key-file", "key-file"], &["key", "list"]).fails(13, &["wrong passphrase"]);
    with(&second, &["key", "list"]).ok();
    with(&second, &["store", "passphrase", "--add", "--new-key-file", "third"]).ok();
    let third = ["--key-file", "third"];
    with(&third, &["store", "passphrase", "--remove", "1"]).ok();
    with(&second, &["key", "list"]).fails(13, &["wrong passphrase"]);
    with(&third, &["store", "passphrase", "--remove", "2"]).fails(2, &["only unlock slot"]);
    with(&third, &["store", "passphrase", "--remove", "9"]).fails(2, &["slot"]);
    with(&third, &["store", "passphrase"]).fails(24, &["no passphrase was given"]);
}

#[test]
fn a_running_mount_does_not_suffice_to_change_what_opens_the_store() {
    let Some(world) = World::new("a_running_mount_does_not_suffice_to_change_what_opens_the_store") else {
        return;
    };
    let mount = world.volume("volume");
    fs::write(world.path("second"), "second\n").unwrap();
    let change = ["store", "passphrase", "--new-passphrase-file", "second"];
    let guess = [&["--passphrase-file", "second"][..], &change].concat();
    run(world.locked_command(&guess)).fails(13, &["wrong passphrase"]);
    world.run(&change);
    world.umount(&mount);
    world.wait_for_daemons();
    run(world.locked_command(&["--passphrase-file", "second", "key", "list"])).ok();
}

// Inspection.

#[test]
fn a_check_finds_what_is_missing_from_a_backup_and_what_is_damaged() {
    let world = World::with_volume();
    world.run(&["store", "backup", "backup"]);
    let sound = world.json(&["store", "check", "--backup", "backup"]);
    assert_eq!((sound["Keys"].as_u64(), sound["Aliases"].as_u64()), (Some(2), Some(1)));
    let key = world.run(&["key", "create"]);
    world.try_run(&["store", "check", "--backup", "backup"]).fails(30, &["lacks", key.trim()]);
    let path = world.path("keys/store.redb");
    let whole = fs::read(&path).unwrap();
    let mut found = 0;
    for at in (4096..whole.len()).step_by(1024) {
        let mut broken = whole.clone();
        broken[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0x10);
        fs::write(&path, &broken).unwrap();
        let ran = world.try_run(&["store", "check"]);
        assert!([0, 11].contains(&ran.code), "byte {at}: {ran:?}");
        found += u32::from(ran.code == 11);
    }
    assert!(found > 2, "{found}");
}

#[test]
fn a_full_disk_refuses_changes_and_takes_them_again() {
    let Some(world) = World::new("a_full_disk_refuses_changes_and_takes_them_again") else { return };
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    assert!(common::mount(&["-t", "tmpfs", "-o", "size=512k", "tmpfs"], &disk));
    in_store(&world, "disk/keys", &["init", "volume"]).ok();
    let description = "x".repeat(4000);
    let create = || in_store(&world, "disk/keys", &["key", "create", "--description", &description]);
    let mut made = 0;
    fs::write(disk.join("ballast"), vec![0; 320 << 10]).unwrap();
    let refused = loop {
        let ran = create();
        if ran.code != 0 {
            break ran;
        }
        made += 1;
        assert!(made < 200, "the disk does not fill up");
    };
    refused.fails(18, &["no space left"]);
    fs::remove_file(disk.join("ballast")).unwrap();
    create().ok();
    let listed = in_store(&world, "disk/keys", &["--json", "key", "list"]).ok().stdout;
    assert_eq!(serde_json::from_str::<Vec<Value>>(&listed).unwrap().len(), made + 2);
    in_store(&world, "disk/keys", &["store", "check"]).ok();
    rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::empty()).unwrap();
}

/// Runs the program on a key store elsewhere in the world, with the world's key file.
fn in_store(world: &World, store: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
    command
        .env_remove("KMSFS_PASSPHRASE")
        .env("KMSFS_KEYSTORE", world.path(store))
        .current_dir(world.dir.path());
    command.arg("--key-file").arg(world.path("key-file")).args(arguments);
    run(command)
}

/// Runs a command that must change nothing in the world.
#[track_caller]
fn unchanged(world: &World, arguments: &[&str]) -> Ran {
    unchanged_by(world, || world.try_run(arguments))
}

/// The key store's file is merely opened, which writes to it, and the refusal is logged; the keys are
/// the same.
#[track_caller]
fn unchanged_by(world: &World, ran: impl FnOnce() -> Ran) -> Ran {
    let log = world.path("keys/audit");
    let files = || {
        let mut found = tree(world.dir.path());
        found.retain(|path, _| !path.ends_with("keys/store.redb") && !path.starts_with(&log));
        found
    };
    let (files_before, keys_before) = (files(), world.json(&["key", "list"]));
    let ran = ran();
    assert!(files() == files_before, "a file was changed: {ran:?}");
    assert_eq!(world.json(&["key", "list"]), keys_before, "a key was changed: {ran:?}");
    ran
}

trait WithNotes {
    fn json_with_notes(&self, arguments: &[&str]) -> Value;
}

impl WithNotes for World {
    /// As `json`, for a command that also warns.
    #[track_caller]
    fn json_with_notes(&self, arguments: &[&str]) -> Value {
        let ran = self.try_run(&[&["--json"], arguments].concat()).ok();
        serde_json::from_str(&ran.stdout).unwrap()
    }
}
