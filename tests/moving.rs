//! Taking a volume to another key store: a copy of its ciphertext, and its keys in a sealed bundle.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::World;
use rustix::fs::XattrFlags;
use serde_json::Value;

const IN_USE: i32 = 12;
const WRONG_SECRET: i32 = 13;
const FOREIGN: i32 = 15;
const NAME_TAKEN: i32 = 27;
const BAD_BUNDLE: i32 = 30;
const KEYS_MISSING: i32 = 42;

/// Two machines' worth of key stores. The first one has an unmounted volume `vol`.
struct Move {
    old: World,
    new: World,
    secret: PathBuf,
    bundle: PathBuf,
}

fn begin(test: &str) -> Option<Move> {
    let (old, new) = (World::new(test)?, World::new(test)?);
    let mount = old.volume("vol");
    fill(&old, &mount);
    old.umount(&mount);
    // The new machine has a volume and keys of its own.
    new.run(&["init", "other"]);
    new.run(&["key", "create", "--alias", "new"]);
    let (secret, bundle) = (old.path("bundle-secret"), old.path("bundle"));
    fs::write(&secret, "correct horse battery staple\n").unwrap();
    Some(Move { old, new, secret, bundle })
}

impl Move {
    fn export(&self) -> Value {
        let vol = self.old.path("vol");
        self.old.json(&[
            "volume",
            "export",
            text(&vol),
            text(&self.bundle),
            "--bundle-passphrase-file",
            text(&self.secret),
        ])
    }

    fn copy(&self) {
        let mut cp = Command::new("cp");
        assert!(cp.arg("-a").arg(self.old.path("vol")).arg(self.new.path("vol")).status().unwrap().success());
    }

    fn try_import(&self, bundle: &Path, secret: &Path) -> common::Ran {
        let vol = self.new.path("vol");
        self.new.try_run(&[
            "--json",
            "volume",
            "import",
            text(&vol),
            text(bundle),
            "--key",
            "alias/new",
            "--bundle-passphrase-file",
            text(secret),
        ])
    }

    fn import(&self) -> Value {
        serde_json::from_str(&self.try_import(&self.bundle, &self.secret).ok().stdout).unwrap()
    }

    fn new_key(&self) -> String {
        self.new.json(&["key", "describe", "alias/new"])["Arn"].as_str().unwrap().to_owned()
    }

    /// The old machine is gone.
    fn lose_the_old_store(&self) {
        fs::remove_dir_all(self.old.path("keys")).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn long_name() -> String {
    "n".repeat(250)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31)).collect()
}

/// Six files, one of them with two names, of which two are in a directory with a key of its own.
fn fill(world: &World, mount: &Path) {
    for len in [0, 10, 300_000] {
        fs::write(mount.join(len.to_string()), pattern(len)).unwrap();
    }
    fs::write(mount.join(long_name()), "long").unwrap();
    rustix::fs::setxattr(mount.join("10"), "user.note", b"of an attribute", XattrFlags::empty()).unwrap();
    fs::set_permissions(mount.join("10"), fs::Permissions::from_mode(0o640)).unwrap();
    world.run(&["key", "create", "--alias", "sub"]);
    fs::create_dir_all(mount.join("sub/deep")).unwrap();
    world.run(&["key", "assign", "alias/sub", text(&mount.join("sub"))]);
    fs::write(mount.join("sub/a"), "a").unwrap();
    fs::write(mount.join("sub/deep/b"), "b").unwrap();
    fs::hard_link(mount.join("10"), mount.join("sub/linked")).unwrap();
    std::os::unix::fs::symlink("../10", mount.join("sub/symlink")).unwrap();
}

fn check(mount: &Path) {
    for len in [0, 10, 300_000] {
        assert!(fs::read(mount.join(len.to_string())).unwrap() == pattern(len), "{len} bytes");
    }
    assert_eq!(fs::read(mount.join(long_name())).unwrap(), b"long");
    let mut note = [0; 15];
    assert_eq!(rustix::fs::getxattr(mount.join("10"), "user.note", &mut note).unwrap(), 15);
    assert_eq!(&note, b"of an attribute");
    let linked = fs::metadata(mount.join("sub/linked")).unwrap();
    assert_eq!((linked.ino(), linked.nlink()), (fs::metadata(mount.join("10")).unwrap().ino(), 2));
    assert_eq!(linked.mode() & 0o777, 0o640);
    assert_eq!(fs::read(mount.join("sub/a")).unwrap(), b"a");
    assert_eq!(fs::read(mount.join("sub/deep/b")).unwrap(), b"b");
    assert_eq!(fs::read(mount.join("sub/symlink")).unwrap(), pattern(10));
}

#[test]
fn a_copied_volume_is_whole_under_the_new_key_store_alone() {
    let Some(moving) = begin("a_copied_volume_is_whole") else { return };
    let exported = moving.export();
    assert_eq!((&exported["Files"], &exported["MissingCount"]), (&6.into(), &0.into()), "{exported}");
    assert_eq!(fs::metadata(&moving.bundle).unwrap().mode() & 0o777, 0o600);
    moving.copy();
    moving.lose_the_old_store();

    let imported = moving.import();
    assert_eq!(imported["Imported"], 6, "{imported}");
    assert_eq!(imported["DirectoriesAssigned"], 3, "the root, 'sub' and what inherited: {imported}");
    let mount = moving.new.mount("vol", &[]);
    check(&mount);
    // New files are under the new key everywhere.
    for name in ["fresh", "sub/fresh", "sub/deep/fresh"] {
        fs::write(mount.join(name), name).unwrap();
    }
    let listed = moving.new.json(&["file", "list", text(&mount)]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 10, "every name");
    assert!(listed.iter().all(|file| file["KeyArn"] == moving.new_key().as_str()), "{listed:?}");
    moving.new.umount(&mount);
    let again = moving.import();
    assert_eq!((&again["Imported"], &again["DirectoriesAssigned"]), (&0.into(), &0.into()), "{again}");
    let checked = moving.new.try_run(&["fsck", "vol"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    check(&moving.new.mount("vol", &[]));
}

#[test]
fn a_bundle_that_is_changed_cut_or_sealed_otherwise_changes_nothing() {
    let Some(moving) = begin("a_bundle_that_is_changed") else { return };
    moving.export();
    moving.copy();
    let before = common::tree(&moving.new.path("vol"));
    let (wrong, broken) = (moving.new.path("wrong"), moving.new.path("broken"));
    fs::write(&wrong, "correct horse battery staples").unwrap();
    moving.try_import(&moving.bundle, &wrong).fails_with(WRONG_SECRET);
    let whole = fs::read(&moving.bundle).unwrap();
    // The start, the sealed key, the first, a middle and the last record.
    for at in [0, 8, 20, 31, 60, 110, 125, 200, 400, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&broken, changed).unwrap();
        let code = moving.try_import(&broken, &moving.secret).code;
        assert!([WRONG_SECRET, BAD_BUNDLE].contains(&code), "byte {at}: {code}");
    }
    for len in [0, 50, whole.len() - 77, whole.len() - 1] {
        fs::write(&broken, &whole[..len]).unwrap();
        moving.try_import(&broken, &moving.secret).fails_with(BAD_BUNDLE);
    }
    assert!(common::tree(&moving.new.path("vol")) == before, "the copy was changed");
    // And without a bundle there is no way in.
    fs::create_dir_all(moving.new.path("vol.mnt")).unwrap();
    moving.new.try_run(&["mount", "vol", "vol.mnt"]).fails(FOREIGN, &["another key store"]);
    moving.import();
    check(&moving.new.mount("vol", &[]));
}

#[test]
fn a_killed_import_goes_on_where_it_ended() {
    let Some(moving) = begin("a_killed_import_goes_on") else { return };
    let mount = moving.old.mount("vol", &[]);
    for index in 0..300 {
        fs::write(mount.join(format!("many-{index}")), "x").unwrap();
    }
    moving.old.umount(&mount);
    moving.export();
    moving.copy();
    moving.lose_the_old_store();
    let (vol, bundle, secret) = (moving.new.path("vol"), text(&moving.bundle), text(&moving.secret));
    let arguments =
        ["volume", "import", text(&vol), bundle, "--key", "alias/new", "--bundle-passphrase-file"];
    let own_key = |volume: &Path| fs::read(volume.join("kmsfs.volume")).unwrap();
    let before = own_key(&vol);
    let mut begun = 0;
    for step in 0..12 {
        let mut child = moving.new.command(&[&arguments[..], &[secret]].concat()).spawn().unwrap();
        if step < 6 {
            // Some of them once the import is writing.
            while own_key(&vol) == before && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(step * 10));
        } else {
            std::thread::sleep(Duration::from_millis(step * 20));
        }
        child.kill().unwrap();
        begun += u32::from(child.wait().unwrap().code().is_none());
    }
    assert!(begun > 0, "no import was killed");
    let last = moving.import();
    let done = |member: &str| last[member].as_u64().unwrap();
    assert_eq!(done("Imported") + done("Already"), 307, "every name: {last}");
    let mount = moving.new.mount("vol", &[]);
    check(&mount);
    for index in 0..300 {
        assert_eq!(fs::read(mount.join(format!("many-{index}"))).unwrap(), b"x");
    }
}

#[test]
fn files_that_came_or_went_after_the_export_are_named_and_the_rest_is_there() {
    let Some(moving) = begin("files_that_came_or_went") else { return };
    // Both key stores are in use, so that everything is asked of their owners.
    let (old_other, new_other) = (moving.old.volume("in-use"), moving.new.mount("other", &[]));
    moving.export();
    let mount = moving.old.mount("vol", &[]);
    fs::write(mount.join("late"), "late").unwrap();
    fs::remove_file(mount.join("sub/a")).unwrap();
    moving.old.umount(&mount);
    moving.copy();
    let ran = moving.try_import(&moving.bundle, &moving.secret);
    assert_eq!(ran.code, KEYS_MISSING, "{ran:?}");
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&said["Imported"], &said["MissingCount"], &said["UnusedCount"]),
        (&5.into(), &1.into(), &1.into())
    );
    assert_eq!(Path::new(said["Missing"][0]["Path"].as_str().unwrap()).file_name().unwrap(), "late");
    let mount = moving.new.mount("vol", &[]);
    assert_eq!(fs::read(mount.join("300000")).unwrap(), pattern(300_000));
    assert!(fs::read(mount.join("late")).is_err());
    moving.new.umount(&mount);

    // A second bundle brings what the first one lacked.
    fs::remove_file(&moving.bundle).unwrap();
    moving.export();
    let said = moving.import();
    assert_eq!((&said["Imported"], &said["ExitCode"]), (&1.into(), &0.into()), "{said}");
    assert_eq!(fs::read(moving.new.mount("vol", &[]).join("late")).unwrap(), b"late");
    moving.old.umount(&old_other);
    moving.new.umount(&new_other);
}

#[test]
fn a_mounted_volume_another_one_and_a_bundle_that_is_there_are_refused() {
    let Some(moving) = begin("a_mounted_volume_another_one") else { return };
    let (vol, secret) = (moving.old.path("vol"), text(&moving.secret));
    let export = |volume: &Path, bundle: &Path| {
        let (volume, bundle) = (text(volume), text(bundle));
        moving.old.try_run(&["volume", "export", volume, bundle, "--bundle-passphrase-file", secret])
    };
    let mount = moving.old.mount("vol", &[]);
    export(&vol, &moving.bundle).fails(IN_USE, &["mounted", "unmount it first"]);
    export(&mount, &moving.bundle).fails(IN_USE, &["unmount it first"]);
    moving.old.umount(&mount);
    export(&vol, &moving.bundle).ok();
    let before = fs::read(&moving.bundle).unwrap();
    export(&vol, &moving.bundle).fails(NAME_TAKEN, &["there already"]);
    assert!(fs::read(&moving.bundle).unwrap() == before);
    // A volume of a third key store is none of the bundle's.
    let third = World::with_volume();
    fs::rename(third.path("volume"), moving.new.path("vol")).unwrap();
    moving.try_import(&moving.bundle, &moving.secret).fails_with(FOREIGN);
}

trait FailsWith {
    fn fails_with(self, code: i32);
}

impl FailsWith for common::Ran {
    /// Panics unless the command failed with `code`.
    #[track_caller]
    fn fails_with(self, code: i32) {
        assert_eq!(self.code, code, "{self:?}");
    }
}
