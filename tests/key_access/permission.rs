//! Grants, policies, paths and groups, and what needs no permission.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};

use serde_json::json;

use crate::common::pair::{backing_of, outcome};
use crate::common::sys::Mapping;
use crate::common::user::{ADA, ADA_OF_TEAM, BOB, ROOT, TEAM};
use crate::{KEY, REFUSED, Shared, allow, creates, reads, statement, truncates, writes};

#[test]
fn a_grant_opens_files_until_it_is_revoked_and_open_handles_go_on() {
    let Some(shared) = Shared::new("a_grant_opens_files_until_it_is_revoked") else { return };
    let file = shared.file("file");
    assert_eq!(reads(ADA, &file), REFUSED);
    assert_eq!(creates(ADA, &shared.mount.join("new")), REFUSED);
    assert!(!shared.mount.join("new").exists(), "what was refused leaves nothing");

    let grant = shared.grant(ADA, "Decrypt,GenerateDataKey");
    assert_eq!((reads(ADA, &file), writes(ADA, &file)), (Ok(()), Ok(())));
    assert_eq!(creates(ADA, &shared.mount.join("new")), Ok(()));
    // Its data key is in the cache, its pages are in the kernel's, and Ada has it open.
    let held = ADA.run(|| File::options().read(true).write(true).open(&file)).unwrap();
    let map = Mapping::shared(&held, 8).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"contents");
    assert_eq!((reads(BOB, &file), writes(BOB, &file), truncates(BOB, &file)), (REFUSED, REFUSED, REFUSED));

    shared.revoke(&grant);
    assert_eq!((reads(ADA, &file), writes(ADA, &file), truncates(ADA, &file)), (REFUSED, REFUSED, REFUSED));
    assert_eq!(creates(ADA, &shared.mount.join("newer")), REFUSED);
    // Not a way around: the file behind a descriptor is opened by name there.
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    assert_eq!(ADA.run(|| outcome(File::open(&again))), REFUSED);
    assert_eq!(ADA.run(|| outcome(std::process::Command::new(&file).spawn())), REFUSED);
    assert_eq!(map.read(0, 8), b"contents");
    held.write_all_at(b"CONTENTS", 0).unwrap();
    held.set_len(9).unwrap();
    let mut found = [0; 9];
    held.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"CONTENTS\0");
    // Others notice nothing.
    assert_eq!(fs::read(&file).unwrap(), b"CONTENTS\0");
}

#[test]
fn reading_and_making_are_two_permissions() {
    let Some(shared) = Shared::new("reading_and_making_are_two_permissions") else { return };
    let file = shared.file("file");
    shared.grant(ADA, "GenerateDataKey");
    shared.grant(BOB, "Decrypt");
    let new = shared.mount.join("new");
    assert_eq!((creates(ADA, &new), reads(ADA, &new), reads(ADA, &file)), (Ok(()), REFUSED, REFUSED));
    assert_eq!((creates(BOB, &shared.mount.join("other")), reads(BOB, &file)), (REFUSED, Ok(())));
}

#[test]
fn an_administrator_without_decrypt_moves_copies_and_deletes_what_he_cannot_read() {
    let Some(mut shared) = Shared::new("an_administrator_without_decrypt") else { return };
    let deny = statement("Deny", "root", json!({}));
    shared.world.put_policy(KEY, &[deny, allow(ADA, json!({}))]);
    let file = shared.mount.join("file");
    ADA.run(|| fs::write(&file, "secret")).unwrap();
    assert_eq!(reads(ROOT, &file), REFUSED);
    assert_eq!(creates(ROOT, &shared.mount.join("root's")), REFUSED);
    ADA.run(|| rustix::fs::setxattr(&file, "user.note", b"secret", rustix::fs::XattrFlags::empty())).unwrap();
    let mut value = [0; 16];
    assert_eq!(outcome(rustix::fs::getxattr(&file, "user.note", &mut value[..])), REFUSED);

    // Also after a mount of his that never saw the key in use.
    shared.world.umount(&shared.mount);
    shared.mount = shared.world.mount("vol", &["-o", "allow_other"]);
    assert_eq!(reads(ROOT, &file), REFUSED);
    // After a crash it is recovered for whoever may open it.
    ADA.run(|| fs::write(&file, "SECRET")).unwrap();
    shared.world.kill(&shared.mount);
    shared.mount = shared.world.mount("vol", &["-o", "allow_other"]);
    assert_eq!(reads(ROOT, &file), REFUSED);
    let backing = backing_of(&shared.world.path("vol"), &file);
    fs::copy(&backing, shared.world.path("backup")).unwrap();
    fs::create_dir(shared.mount.join("dir")).unwrap();
    let moved = shared.mount.join("dir/moved");
    fs::rename(&file, &moved).unwrap();
    fs::hard_link(&moved, &file).unwrap();
    fs::set_permissions(&moved, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(&moved).unwrap().size(), 6);
    assert_eq!(reads(ROOT, &moved), REFUSED);
    assert_eq!(ADA.run(|| fs::read_to_string(&moved)).unwrap(), "SECRET");
    fs::remove_file(&moved).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::read_dir(shared.mount.join("dir")).unwrap().count(), 0);
}

#[test]
fn a_policy_that_changes_counts_at_the_next_open() {
    let Some(shared) = Shared::new("a_policy_that_changes_counts_at_the_next_open") else { return };
    let file = shared.file("file");
    for round in 0..20 {
        let (may, may_not) = if round % 2 == 0 { (ADA, BOB) } else { (BOB, ADA) };
        shared.world.put_policy(KEY, &[allow(may, json!({}))]);
        assert_eq!((reads(may, &file), reads(may_not, &file)), (Ok(()), REFUSED), "round {round}");
    }
}

#[test]
fn paths_and_accesses_are_conditions() {
    let Some(shared) = Shared::new("paths_and_accesses_are_conditions") else { return };
    let long = "n".repeat(250);
    let names = ["public/file", "public/dir/file", &format!("public/{long}"), "secret/file"];
    let [public, below, long, secret] = names.map(|name| shared.file(name));
    let read = json!({"StringLike": {"kmsfs:Path": "/public/*"}, "StringEquals": {"kmsfs:Access": "read"}});
    shared.world.put_policy(KEY, &[allow(ADA, read)]);
    for file in [&public, &below, &long] {
        assert_eq!((reads(ADA, file), writes(ADA, file)), (Ok(()), REFUSED), "{}", file.display());
    }
    assert_eq!(reads(ADA, &secret), REFUSED);
    // The path is the one at the opening, whoever made it so.
    fs::rename(shared.mount.join("secret"), shared.mount.join("public/once-secret")).unwrap();
    assert_eq!(reads(ADA, &shared.mount.join("public/once-secret/file")), Ok(()));
    fs::rename(&public, shared.mount.join("hidden")).unwrap();
    assert_eq!(reads(ADA, &shared.mount.join("hidden")), REFUSED);
    let create = json!({"StringEquals": {"kmsfs:Path": "/in", "kmsfs:Access": "create"}});
    shared.world.put_policy(KEY, &[allow(ADA, create)]);
    assert_eq!(creates(ADA, &shared.mount.join("in")), Ok(()));
    assert_eq!(creates(ADA, &shared.mount.join("out")), REFUSED);
}

#[test]
fn groups_of_the_process_count() {
    let Some(shared) = Shared::new("groups_of_the_process_count") else { return };
    let file = shared.file("file");
    let team = format!("group/{TEAM}");
    shared.world.put_policy(KEY, &[statement("Allow", &team, json!({}))]);
    assert_eq!((reads(ADA_OF_TEAM, &file), reads(ADA, &file)), (Ok(()), REFUSED));
    shared.world.put_policy(KEY, &[allow(ADA, json!({})), statement("Deny", &team, json!({}))]);
    assert_eq!((reads(ADA_OF_TEAM, &file), reads(ADA, &file)), (REFUSED, Ok(())));
    let own = format!("group/{}", ADA.gid);
    shared.world.put_policy(KEY, &[statement("Allow", &own, json!({}))]);
    assert_eq!((reads(ADA, &file), reads(BOB, &file)), (Ok(()), REFUSED));
}

#[test]
fn putting_a_file_under_another_key_needs_both() {
    let Some(shared) = Shared::new("putting_a_file_under_another_key_needs_both") else { return };
    shared.world.run(&["key", "create", "--alias", "other"]);
    shared.world.let_everybody_use(KEY);
    let file = shared.mount.join("file");
    ADA.run(|| fs::write(&file, "contents")).unwrap();
    let set = || {
        let none = rustix::fs::XattrFlags::empty();
        ADA.run(|| outcome(rustix::fs::setxattr(&file, "user.kmsfs.wrap", b"alias/other", none)))
    };
    assert_eq!(set(), REFUSED);
    assert_eq!(reads(ADA, &file), Ok(()), "it was left as it was");
    shared.world.let_everybody_use("alias/other");
    shared.world.put_policy(KEY, &[]);
    assert_eq!(set(), REFUSED);
    shared.world.let_everybody_use(KEY);
    assert_eq!(set(), Ok(()));
    shared.world.put_policy(KEY, &[]);
    let mut contents = String::new();
    ADA.run(|| File::open(&file).unwrap().read_to_string(&mut contents)).unwrap();
    assert_eq!(contents, "contents");
}

#[test]
fn a_new_data_key_needs_decrypt_on_one_key_and_generate_data_key_on_the_other() {
    let test = "a_new_data_key_needs_decrypt_on_one_key_and_generate_data_key_on_the_other";
    let Some(shared) = Shared::new(test) else { return };
    shared.world.run(&["key", "create", "--alias", "other"]);
    shared.world.let_everybody_use(KEY);
    let file = shared.mount.join("file");
    ADA.run(|| fs::write(&file, "contents")).unwrap();
    let set = |value: &str| {
        let none = rustix::fs::XattrFlags::empty();
        ADA.run(|| outcome(rustix::fs::setxattr(&file, "user.kmsfs.reencrypt", value.as_bytes(), none)))
    };
    assert_eq!(set("alias/other"), REFUSED);
    assert_eq!(reads(ADA, &file), Ok(()), "it was left as it was");
    shared.world.let_everybody_use("alias/other");
    shared.world.put_policy(KEY, &[]);
    assert_eq!(set("alias/other"), REFUSED);
    shared.world.let_everybody_use(KEY);
    assert_eq!(set("alias/other"), Ok(()));
    // From here on the one that it had does not matter.
    shared.world.put_policy(KEY, &[]);
    while set("").is_ok() {}
    assert_eq!(set(""), Err(libc::ENODATA));
    let mut contents = String::new();
    ADA.run(|| File::open(&file).unwrap().read_to_string(&mut contents)).unwrap();
    assert_eq!(contents, "contents");
}

#[test]
fn the_mounts_permission_counts_for_everybody_where_that_is_wanted() {
    let Some(mut shared) = Shared::new("the_mounts_permission_counts_for_everybody") else { return };
    let file = shared.file("file");
    assert_eq!(reads(ADA, &file), REFUSED);
    shared.world.umount(&shared.mount);
    shared.mount = shared.world.mount("vol", &["-o", "allow_other,key_access=mount"]);
    assert_eq!((reads(ADA, &file), writes(BOB, &file)), (Ok(()), Ok(())));
    assert_eq!(creates(ADA, &shared.mount.join("new")), Ok(()));
}
