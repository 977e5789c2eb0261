//! POSIX ACLs: kept, inherited and enforced as on ext4, told by getfacl and by who gets in.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use common::pair::{Pair, outcome};
use common::skipped;
use common::user::{ADA, ADA_OF_TEAM, BOB, BOB_OF_TEAM, ROOT, TEAM, User};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::umask;

fn pair(test: &str) -> Option<Pair> {
    if Command::new("setfacl").arg("--version").output().is_err() {
        skipped(test, "setfacl is not installed");
        return None;
    }
    Pair::new(test, "allow_other,suid")
}

/// Runs setfacl; answers whether it succeeded.
fn setfacl(path: &Path, arguments: &[&str]) -> bool {
    let ran = Command::new("setfacl").args(arguments).arg(path).output().unwrap();
    ran.status.success()
}

/// What getfacl says, but for the name.
fn getfacl(path: &Path) -> String {
    let ran = Command::new("getfacl")
        .args(["--omit-header", "--numeric", "--no-effective", "--absolute-names"])
        .arg(path)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let mode = path.symlink_metadata().unwrap().mode();
    format!("{mode:o}\n{}", String::from_utf8(ran.stdout).unwrap())
}

/// Who of several users may read, write and execute.
fn access(path: &Path) -> Vec<[bool; 3]> {
    let users: [User; 5] = [ROOT, ADA, BOB, ADA_OF_TEAM, BOB_OF_TEAM];
    let may = |path: &Path| {
        let execute = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        if path.is_dir() {
            return [fs::read_dir(path).is_ok(), File::create(path.join("probe")).is_ok(), execute];
        }
        [File::open(path).is_ok(), File::options().append(true).open(path).is_ok(), execute]
    };
    users.map(|user| user.run(|| may(path))).to_vec()
}

#[test]
fn a_user_and_a_group_are_let_in_or_kept_out() {
    let Some(pair) = pair("a_user_and_a_group_are_let_in_or_kept_out") else { return };
    let (ada, bob, team) = (ADA.uid, BOB.uid, TEAM);
    let lists = [
        format!("u:{ada}:rw"),
        format!("u:{ada}:r,u:{bob}:-"),
        format!("g:{team}:rwx"),
        format!("u:{ada}:rwx,g:{team}:-,o::r"),
        format!("u:{ada}:rwx,m::r"),
        format!("u:{ada}:-,o::rwx"),
        format!("g:{team}:r,g::rw,m::rwx"),
    ];
    let said = pair.answer_alike("access by ACL", |dir| {
        let mut said = Vec::new();
        for (i, list) in lists.iter().enumerate() {
            for is_dir in [false, true] {
                let path = dir.join(format!("{i}-{is_dir}"));
                if is_dir {
                    fs::create_dir(&path).unwrap();
                } else {
                    fs::write(&path, "contents").unwrap();
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
                let before = access(&path);
                assert!(setfacl(&path, &["-m", list]), "{list}");
                said.push((list.clone(), getfacl(&path), before, access(&path)));
            }
        }
        said
    });
    // Ada reads and writes the first file, and did not before.
    assert_eq!((said[0].2[1], said[0].3[1]), ([false; 3], [true, true, false]));
    // The same when nothing is cached.
    let path = pair.mount.join("round-0/0-false");
    let before = (getfacl(&path), access(&path));
    pair.remount();
    assert_eq!((getfacl(&path), access(&path)), before);
}

#[test]
fn a_default_list_is_inherited_and_the_umask_ignored() {
    let Some(pair) = pair("a_default_list_is_inherited") else { return };
    pair.alike("default ACLs", |dir| {
        let mut said = Vec::new();
        for (i, list) in [
            format!("u:{}:rwx,g:{}:rx", ADA.uid, TEAM),
            format!("u:{}:r,m::rw,o::-", BOB.uid),
            "u::rwx,g::rwx,o::rwx".to_owned(),
        ]
        .iter()
        .enumerate()
        {
            for mask in [0o022, 0o077] {
                let sub = dir.join(format!("{i}-{mask:o}"));
                fs::create_dir(&sub).unwrap();
                fs::set_permissions(&sub, fs::Permissions::from_mode(0o777)).unwrap();
                assert!(setfacl(&sub, &["-d", "-m", list]));
                for (who, user) in [ROOT, ADA].into_iter().enumerate() {
                    for mode in [0o777, 0o666, 0o640, 0o2755] {
                        let name = |kind: &str| sub.join(format!("{kind}-{who}-{mode:o}"));
                        user.run(|| {
                            umask(Mode::from_raw_mode(mask));
                            File::options()
                                .write(true)
                                .create_new(true)
                                .mode(mode)
                                .open(name("file"))
                                .unwrap();
                            fs::DirBuilder::new().mode(mode).create(name("dir")).unwrap();
                            mknodat(CWD, name("fifo"), FileType::Fifo, Mode::from_raw_mode(mode), 0).unwrap();
                            std::os::unix::fs::symlink("target", name("link")).unwrap();
                        });
                        said.extend(["file", "dir", "fifo"].map(|kind| {
                            (name(kind).strip_prefix(dir).unwrap().to_owned(), getfacl(&name(kind)))
                        }));
                    }
                }
                // And further down.
                let below = sub.join("dir-0-777/below");
                fs::create_dir(&below).unwrap();
                said.push((below.strip_prefix(dir).unwrap().to_owned(), getfacl(&below)));
            }
        }
        said
    });
}

#[test]
fn chmod_sets_the_mask() {
    let Some(pair) = pair("chmod_sets_the_mask") else { return };
    pair.alike("chmod with an ACL", |dir| {
        let path = dir.join("file");
        fs::write(&path, "contents").unwrap();
        chown(&path, Some(ADA.uid), Some(TEAM)).unwrap();
        assert!(setfacl(&path, &["-m", &format!("u:{}:rwx,g:{TEAM}:rw", BOB.uid)]));
        let mut said = vec![getfacl(&path)];
        for mode in [0o600, 0o640, 0o777, 0o070, 0o2755] {
            let permissions = fs::Permissions::from_mode(mode);
            let done = ADA.run(|| outcome(fs::set_permissions(&path, permissions)));
            said.push(format!("{done:?} {} {:?}", getfacl(&path), access(&path)));
        }
        assert!(setfacl(&path, &["-b"]));
        said.push(getfacl(&path));
        said
    });
}

#[test]
fn the_owner_alone_changes_a_list() {
    let Some(pair) = pair("the_owner_alone_changes_a_list") else { return };
    pair.alike("who may setfacl", |dir| {
        let path = dir.join("file");
        fs::write(&path, "contents").unwrap();
        chown(&path, Some(ADA.uid), Some(ADA.gid)).unwrap();
        let list = format!("u:{}:rwx", BOB.uid);
        let mut said = Vec::new();
        for user in [BOB, ADA, ROOT] {
            said.push((user.run(|| setfacl(&path, &["-m", &list])), getfacl(&path)));
            said.push((user.run(|| setfacl(&path, &["-b"])), getfacl(&path)));
        }
        // No default for a file.
        said.push((setfacl(&path, &["-d", "-m", &list]), getfacl(&path)));
        said
    });
}

#[test]
fn a_list_that_says_what_the_mode_says_is_the_mode() {
    let Some(pair) = pair("a_list_that_says_what_the_mode_says") else { return };
    pair.alike("minimal ACLs and set-ID bits", |dir| {
        let path = dir.join("file");
        fs::write(&path, "contents").unwrap();
        chown(&path, Some(ADA.uid), Some(TEAM)).unwrap();
        let mut said = Vec::new();
        for user in [ADA, ADA_OF_TEAM] {
            for list in ["u::rwx,g::rx,o::-", "u::r,g::r,o::r", "u::rwx,g::rwx,o::rwx,m::rx"] {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o2775)).unwrap();
                said.push((user.run(|| setfacl(&path, &["-m", list])), getfacl(&path)));
                setfacl(&path, &["-b"]);
            }
        }
        let attribute = rustix::fs::getxattr_query(&path, "system.posix_acl_access");
        (said, attribute.map_err(|e| e.raw_os_error()))
    });
}

#[test]
fn copies_and_links_keep_lists_as_elsewhere() {
    let Some(pair) = pair("copies_and_links_keep_lists") else { return };
    pair.alike("cp -a and mv", |dir| {
        let path = dir.join("file");
        fs::write(&path, "contents").unwrap();
        assert!(setfacl(&path, &["-m", &format!("u:{}:rwx", BOB.uid)]));
        for (command, from, to) in
            [("cp -a", "file", "copy"), ("mv", "file", "moved"), ("ln", "moved", "linked")]
        {
            let script = format!("{command} {from} {to}");
            assert!(Command::new("sh").arg("-c").arg(script).current_dir(dir).status().unwrap().success());
        }
        ["copy", "moved", "linked"].map(|name| (getfacl(&dir.join(name)), access(&dir.join(name))))
    });
}
