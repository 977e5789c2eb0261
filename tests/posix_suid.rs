//! Set-user-ID and set-group-ID bits: when they go, and when they stay.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use common::pair::{Pair, outcome, seen};
use common::sys::{Mapping, fallocate};
use common::user::{ADA, ADA_OF_TEAM, BOB, BOB_OF_TEAM, ROOT, TEAM, User};

const MODES: [u32; 6] = [0o6777, 0o6767, 0o4767, 0o2777, 0o6666, 0o1666];

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

/// Does something to a fresh file of Ada's and the team's, as each of several users, for every
/// mode; on both sides the same mode must be left.
fn leaves_alike(pair: &Pair, what: &str, f: fn(&Path)) {
    let users: [User; 5] = [ADA, ADA_OF_TEAM, BOB, BOB_OF_TEAM, ROOT];
    pair.alike(what, |dir| {
        let mut said = Vec::new();
        for (i, user) in users.into_iter().enumerate() {
            for given in MODES {
                let path = dir.join(format!("{i}-{given:o}"));
                fs::write(&path, "contents").unwrap();
                chown(&path, Some(ADA.uid), Some(TEAM)).unwrap();
                chmod(&path, given);
                assert_eq!(mode(&path), given);
                user.run(|| f(&path));
                let now = mode(&path);
                // Not only in the kernel's cache.
                File::open(&path).unwrap().sync_all().unwrap();
                assert_eq!(mode(&path), now);
                said.push((i, format!("{given:o}"), format!("{now:o}")));
            }
        }
        said
    });
    // Nor was it only the cache that was right.
    let [plain, ours] = [&pair.plain, &pair.mount].map(|root| root.join("round-0"));
    pair.remount();
    for entry in fs::read_dir(&plain).unwrap().map(Result::unwrap) {
        assert_eq!(seen(ours.join(entry.file_name())).unwrap().mode, seen(entry.path()).unwrap().mode);
    }
}

fn pair(test: &str) -> Option<Pair> {
    Pair::new(test, "allow_other,suid")
}

fn writer(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn writing_drops_set_id_bits_unless_root_writes() {
    let Some(pair) = pair("writing_drops_set_id_bits") else { return };
    leaves_alike(&pair, "write", |path| writer(path).write_all(b"x").unwrap());
}

#[test]
fn writing_nothing_or_reading_drops_nothing() {
    let Some(pair) = pair("writing_nothing_or_reading_drops_nothing") else { return };
    leaves_alike(&pair, "write of nothing", |path| {
        let file = writer(path);
        assert_eq!(file.write_at(b"", 0).unwrap(), 0);
        file.read_at(&mut [0; 4], 0).unwrap();
    });
}

#[test]
fn writing_at_the_end_or_past_the_cache_drops_them_too() {
    let Some(pair) = pair("writing_at_the_end_or_past_the_cache") else { return };
    leaves_alike(&pair, "append", |path| {
        File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
    });
    let direct = |path: &Path| {
        let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        file.write_all_at(&common::sys::Aligned::new(&[1; 4096]), 0).unwrap();
    };
    leaves_alike(&pair, "direct write", direct);
}

#[test]
fn truncating_drops_them() {
    let Some(pair) = pair("truncating_drops_them") else { return };
    leaves_alike(&pair, "ftruncate", |path| writer(path).set_len(3).unwrap());
    leaves_alike(&pair, "truncate to the same length", |path| writer(path).set_len(8).unwrap());
    leaves_alike(&pair, "O_TRUNC", |path| {
        drop(File::options().write(true).truncate(true).open(path).unwrap());
    });
}

#[test]
fn allocating_and_punching_drop_them() {
    let Some(pair) = pair("allocating_and_punching_drop_them") else { return };
    leaves_alike(&pair, "allocate", |path| fallocate(&writer(path), 0, 0, 20_000).unwrap());
    leaves_alike(&pair, "punch", |path| {
        fallocate(&writer(path), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4).unwrap();
    });
}

#[test]
fn writing_through_a_mapping_leaves_what_it_leaves_elsewhere() {
    let Some(pair) = pair("writing_through_a_mapping") else { return };
    leaves_alike(&pair, "mapped write", |path| {
        let file = writer(path);
        let mapping = Mapping::shared(&file, 8).unwrap();
        mapping.write(0, b"x");
        mapping.sync().unwrap();
    });
}

#[test]
fn copying_into_a_file_drops_them() {
    let Some(pair) = pair("copying_into_a_file_drops_them") else { return };
    leaves_alike(&pair, "copy_file_range", |path| {
        let file = writer(path);
        let (mut from, mut to) = (0, 8);
        rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 8).unwrap();
    });
}

#[test]
fn changing_owner_or_group_drops_them() {
    let Some(pair) = pair("changing_owner_or_group_drops_them") else { return };
    leaves_alike(&pair, "chown to the same", |path| {
        let _ = chown(path, Some(ADA.uid), Some(TEAM));
    });
    leaves_alike(&pair, "chown to the own group", |path| {
        let _ = chown(path, None, Some(ADA.gid));
    });
    leaves_alike(&pair, "chown of nothing", |path| {
        let _ = chown(path, None, None);
    });
    leaves_alike(&pair, "chown to somebody else", |path| {
        let _ = chown(path, Some(BOB.uid), None);
    });
}

#[test]
fn changing_the_owner_of_a_directory_keeps_them() {
    let Some(pair) = pair("changing_the_owner_of_a_directory_keeps_them") else { return };
    pair.alike("chown of a directory", |dir| {
        let path = dir.join("dir");
        fs::create_dir(&path).unwrap();
        chmod(&path, 0o6775);
        let mut said = vec![mode(&path)];
        for (uid, gid) in [(Some(ADA.uid), Some(TEAM)), (None, Some(ADA.gid)), (Some(0), None)] {
            chown(&path, uid, gid).unwrap();
            said.push(mode(&path));
        }
        said
    });
}

#[test]
fn only_a_member_of_the_group_sets_its_bit() {
    let Some(pair) = pair("only_a_member_of_the_group_sets_its_bit") else { return };
    pair.alike("chmod g+s", |dir| {
        let mut said = Vec::new();
        for (i, user) in [ADA, ADA_OF_TEAM, BOB_OF_TEAM, BOB].into_iter().enumerate() {
            let (file, sub) = (dir.join(format!("file-{i}")), dir.join(format!("dir-{i}")));
            fs::write(&file, "").unwrap();
            fs::create_dir(&sub).unwrap();
            for path in [&file, &sub] {
                chown(path, Some(ADA.uid), Some(TEAM)).unwrap();
                for wanted in [0o2775, 0o6755, 0o2664, 0o1777] {
                    let permissions = fs::Permissions::from_mode(wanted);
                    let done = user.run(|| outcome(fs::set_permissions(path, permissions)));
                    said.push((i, done, format!("{:o}", mode(path))));
                }
            }
        }
        said
    });
}

#[test]
fn a_set_user_id_program_runs_as_its_owner_where_the_mount_allows_it() {
    for (options, expected) in [("allow_other,suid", ADA.uid), ("allow_other", BOB.uid)] {
        let Some(pair) = Pair::new("a_set_user_id_program_runs_as_its_owner", options) else { return };
        let program = pair.mount.join("id");
        fs::copy("/usr/bin/id", &program).unwrap();
        chown(&program, Some(ADA.uid), None).unwrap();
        chmod(&program, 0o4755);
        let run = || std::process::Command::new(&program).arg("-u").output();
        let mut said = Vec::new();
        // Processes that other tests start have the program open for writing for a moment, too.
        common::wait_until("the program can be run", || {
            BOB.run(run).map(|ran| said = ran.stdout).map_err(|e| e.raw_os_error())
                != Err(Some(libc::ETXTBSY))
        });
        assert_eq!(String::from_utf8(said).unwrap().trim(), expected.to_string(), "{options}");
    }
}
