//! Many users on one mount: whose what they make is, and who may do what.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use common::World;
use common::pair::{Pair, outcome, seen};
use common::user::{ADA, ADA_OF_TEAM, BOB, BOB_OF_TEAM, ROOT, TEAM, User};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::umask;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn pair(test: &str) -> Option<Pair> {
    Pair::new(test, "allow_other")
}

/// Makes one of everything in `dir`, with these permissions asked for.
fn make_all(dir: &Path, mode: u32) -> Vec<Result<(), i32>> {
    let bits = Mode::from_raw_mode(mode);
    vec![
        outcome(File::options().write(true).create_new(true).mode(mode).open(dir.join("file"))),
        outcome(fs::DirBuilder::new().mode(mode).create(dir.join("dir"))),
        outcome(symlink("target", dir.join("link"))),
        outcome(mknodat(CWD, dir.join("fifo"), FileType::Fifo, bits, 0)),
        outcome(mknodat(CWD, dir.join("socket"), FileType::Socket, bits, 0)),
        outcome(mknodat(CWD, dir.join("node"), FileType::RegularFile, bits, 0)),
        outcome(fs::hard_link(dir.join("file"), dir.join("hard"))),
        outcome(File::options().write(true).create_new(true).mode(mode).open(dir.join("n".repeat(250)))),
    ]
}

/// What is in a directory, by name.
fn look(dir: &Path) -> BTreeMap<String, common::pair::Seen> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), seen(&path).unwrap()))
        .collect()
}

#[test]
fn whatever_somebody_makes_is_his() {
    let Some(pair) = pair("whatever_somebody_makes_is_his") else { return };
    for user in [ADA, ADA_OF_TEAM, ROOT] {
        let made = pair.answer_alike("new entries", |dir| {
            let said = user.run(|| make_all(dir, 0o777));
            (said, look(dir))
        });
        assert!(
            made.1.len() == 8 && made.1.values().all(|seen| (seen.uid, seen.gid) == (user.uid, user.gid))
        );
    }
    let before = look(&pair.mount.join("round-1"));
    pair.remount();
    assert_eq!(look(&pair.mount.join("round-1")), before);
}

#[test]
fn a_process_started_as_another_user_is_that_user() {
    let Some(pair) = pair("a_process_started_as_another_user") else { return };
    pair.alike("setpriv", |dir| {
        chown(dir, Some(0), Some(TEAM)).unwrap();
        chmod(dir, 0o2770);
        let groups = [ADA_OF_TEAM, ADA].map(|user| {
            let mut shell = std::process::Command::new("setpriv");
            let list: Vec<String> = user.groups.iter().map(u32::to_string).collect();
            shell.arg("--reuid").arg(user.uid.to_string()).arg("--regid").arg(user.gid.to_string());
            match list.is_empty() {
                true => shell.arg("--clear-groups"),
                false => shell.arg("--groups").arg(list.join(",")),
            };
            let script = "umask 027; echo mine > $0/$1 && mkdir $0/$1.d && ln -s x $0/$1.l";
            shell.args(["sh", "-c", script]).arg(dir).arg(user.groups.len().to_string());
            shell.stderr(std::process::Stdio::null()).process_group(0).status().unwrap().success()
        });
        (groups, look(dir))
    });
}

#[test]
fn umask_and_mode_make_the_permissions() {
    let Some(pair) = pair("umask_and_mode_make_the_permissions") else { return };
    pair.alike("umask", |dir| {
        let mut said = Vec::new();
        for mask in [0, 0o022, 0o077, 0o777] {
            for mode in [0o777, 0o640, 0o4755, 0o2755, 0o1777, 0] {
                let sub = dir.join(format!("{mask:o}-{mode:o}"));
                fs::create_dir(&sub).unwrap();
                chmod(&sub, 0o777);
                let made = ADA.run(|| {
                    umask(Mode::from_raw_mode(mask));
                    make_all(&sub, mode)
                });
                said.push((made, look(&sub)));
            }
        }
        said
    });
}

#[test]
fn the_kernel_checks_permissions_of_files_and_directories() {
    let Some(pair) = pair("the_kernel_checks_permissions") else { return };
    pair.alike("permission checks", |dir| {
        let mut said = Vec::new();
        for mode in [0o700, 0o070, 0o007, 0o750, 0o711, 0o555, 0o333, 0] {
            let sub = dir.join(format!("{mode:o}"));
            fs::create_dir(&sub).unwrap();
            fs::write(sub.join("file"), "x").unwrap();
            fs::write(sub.join("victim"), "x").unwrap();
            for path in [sub.join("file"), sub.clone()] {
                chmod(&path, mode);
                chown(&path, Some(ADA.uid), Some(TEAM)).unwrap();
            }
            for (i, user) in [ADA, BOB, BOB_OF_TEAM, ROOT].into_iter().enumerate() {
                said.push(user.run(|| {
                    let new = sub.join(format!("new-{i}"));
                    [
                        outcome(File::open(sub.join("file"))),
                        outcome(File::options().write(true).open(sub.join("file"))),
                        outcome(fs::read_dir(&sub)),
                        outcome(File::create(&new)),
                        outcome(fs::rename(&new, sub.join(format!("moved-{i}")))),
                        outcome(fs::remove_file(sub.join(format!("moved-{i}")))),
                        outcome(fs::hard_link(sub.join("file"), sub.join(format!("link-{i}")))),
                        outcome(fs::create_dir(sub.join(format!("dir-{i}")))),
                        outcome(fs::metadata(sub.join("victim"))),
                        outcome(rustix::fs::access(sub.join("file"), rustix::fs::Access::EXEC_OK)),
                        outcome(std::env::set_current_dir(&sub)),
                        outcome(chown(sub.join("file"), None, Some(user.gid))),
                    ]
                }));
                // What one user took does not decide what the next may.
                chown(sub.join("file"), Some(ADA.uid), Some(TEAM)).unwrap();
            }
        }
        said
    });
}

#[test]
fn a_file_of_mode_zero_is_written_by_the_handle_that_made_it() {
    let Some(pair) = pair("a_file_of_mode_zero_is_written") else { return };
    pair.alike("closed modes", |dir| {
        [0, 0o200, 0o400].map(|mode| {
            let path = dir.join(format!("{mode:o}"));
            let said = ADA.run(|| {
                let file =
                    File::options().read(true).write(true).create_new(true).mode(mode).open(&path).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"contents", 0).unwrap();
                file.sync_all().unwrap();
                (
                    outcome(File::open(&path)),
                    outcome(File::options().write(true).open(&path)),
                    outcome(fs::set_permissions(&path, fs::Permissions::from_mode(mode))),
                )
            });
            (said, fs::read(&path).unwrap(), seen(&path))
        })
    });
}

#[test]
fn a_supplementary_group_counts_for_access_and_owns_nothing() {
    let Some(pair) = pair("a_supplementary_group_counts_for_access") else { return };
    let made = pair.answer_alike("a directory of a group", |dir| {
        chown(dir, Some(0), Some(TEAM)).unwrap();
        chmod(dir, 0o770);
        let refused = BOB.run(|| outcome(File::create(dir.join("refused"))));
        let said = ADA_OF_TEAM.run(|| make_all(dir, 0o660));
        let moved = BOB_OF_TEAM.run(|| outcome(fs::rename(dir.join("file"), dir.join("moved"))));
        (refused, said, moved, look(dir))
    });
    assert_eq!(made.0, Err(libc::EACCES));
    assert!(
        made.1.iter().all(Result::is_ok)
            && made.3.values().all(|seen| (seen.uid, seen.gid) == (ADA.uid, ADA.gid))
    );
}

#[test]
fn a_set_group_id_directory_hands_its_group_on() {
    let Some(pair) = pair("a_set_group_id_directory_hands_its_group_on") else { return };
    pair.alike("set-group-ID directories", |dir| {
        let mut said = Vec::new();
        for user in [ADA, ADA_OF_TEAM, ROOT] {
            for mode in [0o777, 0o2775, 0o2711, 0o640] {
                let sub = dir.join(format!("{}-{}-{mode:o}", user.uid, user.groups.len()));
                fs::create_dir(&sub).unwrap();
                chown(&sub, Some(0), Some(TEAM)).unwrap();
                chmod(&sub, 0o2777);
                let made =
                    user.run(|| (make_all(&sub, mode), outcome(fs::create_dir(sub.join("dir/below")))));
                said.push((made, look(&sub), seen(sub.join("dir/below"))));
            }
        }
        said
    });
    let made = seen(pair.mount.join(format!("round-0/{}-0-640/file", ADA.uid))).unwrap();
    assert_eq!((made.uid, made.gid), (ADA.uid, TEAM));
}

#[test]
fn in_a_sticky_directory_everybody_removes_his_own() {
    let Some(pair) = pair("in_a_sticky_directory_everybody_removes_his_own") else { return };
    pair.alike("sticky directories", |dir| {
        let mut said = Vec::new();
        for owner in [ROOT, ADA] {
            let sub = dir.join(owner.uid.to_string());
            fs::create_dir(&sub).unwrap();
            chown(&sub, Some(owner.uid), Some(owner.gid)).unwrap();
            chmod(&sub, 0o1777);
            for name in ["a", "b", "c", "d"] {
                BOB.run(|| fs::write(sub.join(name), "Bob's").unwrap());
            }
            BOB.run(|| fs::create_dir(sub.join("dir")).unwrap());
            ADA.run(|| fs::write(sub.join("hers"), "Ada's").unwrap());
            for user in [ADA, BOB] {
                said.push(user.run(|| {
                    vec![
                        outcome(fs::remove_file(sub.join("a"))),
                        outcome(fs::rename(sub.join("b"), sub.join("b2"))),
                        outcome(fs::rename(sub.join("hers"), sub.join("c"))),
                        outcome(fs::rename(sub.join("d"), sub.join("hers"))),
                        outcome(fs::remove_dir(sub.join("dir"))),
                        outcome(fs::write(sub.join("d"), "over")),
                    ]
                }));
            }
            said.push(vec![Ok(()); look(&sub).len()]);
        }
        said
    });
}

#[test]
fn without_allow_other_the_mount_is_its_users_alone() {
    let Some(pair) = Pair::new("without_allow_other_the_mount_is_its_users_alone", "") else { return };
    fs::write(pair.mount.join("file"), "x").unwrap();
    chmod(&pair.mount.join("file"), 0o666);
    assert_eq!(ADA.run(|| outcome(File::open(pair.mount.join("file")))), Err(libc::EACCES));
    assert_eq!(ADA.run(|| outcome(fs::read_dir(&pair.mount))), Err(libc::EACCES));
}

#[test]
fn an_unprivileged_mount_reaches_files_of_every_mode() {
    let test = "an_unprivileged_mount_reaches_files_of_every_mode";
    let Some(world) = World::new(test) else { return };
    // In a mount namespace of its own, where anybody may open /dev/fuse.
    // It holds no mount of others, which could not end before it does.
    let namespace = "grep fuse.kmsfs /proc/self/mounts | cut -d' ' -f2 | xargs -r umount -l
        mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse
        exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -euc \"$0\"";
    // The kernel asks for no permission that a handle which is open already has.
    let script = r#"
        kmsfs() { "$KMSFS" --keystore home/keys --key-file key-file "$@"; }
        kmsfs init home/vol >/dev/null 2>&1
        kmsfs mount home/vol home/mnt
        trap 'cd "$here"; kmsfs umount home/mnt' EXIT
        here=$PWD
        cd home/mnt
        for mode in 000 200 400 600; do
            (umask 777; : >$mode; chmod $mode $mode)
            (umask 777; echo "by the handle that made it" >new-$mode)
        done
        echo written >200
        chmod 400 200
        cat 200 400
        ! cat 000 2>/dev/null
        ! echo x 2>/dev/null >400
        chmod 600 000 new-000
        cat 000 new-000
    "#;
    let home = world.path("home");
    // fusermount3 serves those alone who have a name.
    let nobody = 65_534;
    for dir in ["", "vol", "mnt"] {
        fs::create_dir(home.join(dir)).unwrap();
        chown(home.join(dir), Some(nobody), Some(nobody)).unwrap();
    }
    chmod(&world.path(""), 0o755);
    chmod(&world.path("key-file"), 0o644);
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-euc", namespace, script]).current_dir(world.path(""));
    let program = world.path("kmsfs");
    fs::copy(env!("CARGO_BIN_EXE_kmsfs"), &program).unwrap();
    let ran = common::run({
        command.env("KMSFS", program);
        command
    });
    if ran.stderr.contains("fusermount3") {
        return common::skipped(test, "fusermount3 is not usable here");
    }
    assert_eq!(ran.ok().stdout, "written\nby the handle that made it\n");
}

/// What belongs to the daemon itself in a backing directory: its records. Entries with long names
/// are not among them.
fn is_record(name: &str) -> bool {
    name.starts_with("kmsfs.") && (!name.starts_with("kmsfs.long.") || name.ends_with(".name"))
}

#[test]
fn nothing_is_ever_somebody_elses_not_even_for_a_moment() {
    let Some(pair) = pair("nothing_is_ever_somebody_elses") else { return };
    let dir = pair.fresh()[1].join("watched");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(ADA.uid), Some(ADA.gid)).unwrap();
    chmod(&dir, 0o755);
    let backing = pair.backing(&dir);
    let (mut wrong, mut rounds) = (BTreeMap::new(), 0);
    std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            ADA_OF_TEAM.run(|| {
                for round in 0..60 {
                    let sub = dir.join(round.to_string());
                    fs::create_dir(&sub).unwrap();
                    assert!(make_all(&sub, 0o600).iter().all(Result::is_ok));
                    let name = |kind: &str| dir.join(format!("{kind}-{round}"));
                    fs::write(name("file"), "contents").unwrap();
                    symlink("target", name("link")).unwrap();
                    mknodat(CWD, name("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
                    fs::write(name(&"long".repeat(55)), "contents").unwrap();
                }
            });
        });
        while !maker.is_finished() {
            rounds += 1;
            let mut pending = vec![backing.clone()];
            while let Some(at) = pending.pop() {
                // Entries come and go meanwhile.
                for entry in fs::read_dir(at).into_iter().flatten().flatten() {
                    let name = entry.file_name().into_string().unwrap();
                    let Ok(of) = entry.path().symlink_metadata() else { continue };
                    let owned = (of.uid(), of.gid()) == (ADA.uid, ADA.gid);
                    let recorded = is_record(&name) && of.is_file() && of.uid() == 0;
                    if !owned && !recorded {
                        wrong.insert(entry.path(), (of.uid(), of.gid(), format!("{:o}", of.mode())));
                    }
                    if of.is_dir() && rounds % 8 == 0 {
                        pending.push(entry.path());
                    }
                }
            }
        }
    });
    assert!(rounds > 10, "the watcher looked {rounds} times only");
    assert!(
        wrong.is_empty(),
        "{} entries belonged to others for a while, such as {:?}",
        wrong.len(),
        wrong.first_key_value()
    );
}

#[test]
fn users_at_the_same_time_do_not_become_each_other() {
    let Some(pair) = pair("users_at_the_same_time_do_not_become_each_other") else { return };
    let dir = pair.fresh()[1].clone();
    let users: [User; 4] = [ADA, BOB, ROOT, BOB_OF_TEAM];
    let all: Vec<(usize, User)> = users.into_iter().enumerate().collect();
    std::thread::scope(|scope| {
        for (i, user) in all.clone() {
            let dir = &dir;
            scope.spawn(move || {
                user.run(|| {
                    for round in 0..25 {
                        let sub = dir.join(format!("{i}-{round}"));
                        fs::create_dir(&sub).unwrap();
                        assert!(make_all(&sub, 0o640).iter().all(Result::is_ok));
                    }
                });
            });
        }
    });
    for (i, user) in all {
        for round in 0..25 {
            let sub = dir.join(format!("{i}-{round}"));
            for (name, seen) in look(&sub) {
                assert_eq!((seen.uid, seen.gid), (user.uid, user.gid), "{name}");
            }
        }
    }
}
