//! A mount that only root's processes get into, where nobody checks permissions: what modes mean for root
//! holds all the same.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;

use common::pair::{Pair, outcome, seen};
use common::sys::set_fs_uid;
use common::user::{ADA, BOB, ROOT};
use rustix::fs::{Access, access};
use rustix::process::chdir;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const MODES: [u32; 8] = [0, 0o400, 0o200, 0o100, 0o010, 0o001, 0o644, 0o755];

/// Runs a shell's command in `dir`; what it prints.
fn sh(dir: &Path, script: &str) -> String {
    let ran = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    format!("{} {}", ran.status, String::from_utf8_lossy(&ran.stdout))
}

/// Whether a program can be run. A child of another test may for a moment still have it open for writing.
fn runs(program: &Path) -> Result<(), i32> {
    loop {
        match outcome(Command::new(program).output()) {
            Err(libc::ETXTBSY) => thread::yield_now(),
            ran => return ran,
        }
    }
}

/// Runs `f` in a thread of its own.
fn aside<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join().unwrap())
}

/// Runs `f` as root whom modes stop, as in a container that took these rights away.
fn without_override<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    aside(|| {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets).unwrap();
        f()
    })
}

#[test]
fn modes_stop_root_from_executing_what_nobody_may_and_from_nothing_else() {
    let Some(pair) = Pair::new("modes_stop_root_from_executing", "") else { return };
    pair.alike("what root may do", |dir| {
        let mut said = Vec::new();
        for mode in MODES {
            let (file, sub) = (dir.join(format!("file-{mode:o}")), dir.join(format!("dir-{mode:o}")));
            fs::write(&file, "#!/bin/sh\necho ran\n").unwrap();
            fs::create_dir(&sub).unwrap();
            for path in [&file, &sub] {
                chown(path, Some(ADA.uid), Some(ADA.gid)).unwrap();
                fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
                for asked in [Access::EXISTS, Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK] {
                    said.push(outcome(access(path, asked)));
                    said.push(outcome(access(path, asked | Access::READ_OK)));
                }
            }
            said.push(outcome(File::open(&file)));
            said.push(outcome(File::options().append(true).open(&file)));
            said.push(runs(&file));
            said.push(outcome(fs::read_dir(&sub)));
            said.push(outcome(File::create(sub.join("made"))));
            said.push(outcome(fs::rename(sub.join("made"), sub.join("moved"))));
            said.push(ROOT.run(|| outcome(chdir(&sub))));
            said.push(outcome(fs::remove_file(sub.join("moved"))));
        }
        said
    });
    // Nothing of this comes from what was cached.
    let executable = |mode: u32| access(pair.mount.join(format!("round-0/file-{mode:o}")), Access::EXEC_OK);
    pair.remount();
    let allowed = MODES.map(|mode| executable(mode).is_ok());
    assert_eq!(allowed, [false, false, false, true, true, true, false, true]);
}

#[test]
fn a_list_changes_the_mode_at_once() {
    let Some(pair) = Pair::new("a_list_changes_the_mode_at_once", "") else { return };
    if !common::has_program("a_list_changes_the_mode_at_once", "setfacl") {
        return;
    }
    let list = format!("u:{}:rwx", BOB.uid);
    pair.alike("modes by ACLs", |dir| {
        sh(dir, "umask 022; echo contents > file; mkdir sub; chmod 600 file");
        // These tools ask for the mode alone, which the kernel may have.
        let told = |name: &str| sh(dir, &format!("stat -c %a {name}; ls -ld {name} | cut -c-11"));
        let mut said = vec![told("file"), told("sub")];
        for change in [
            format!("setfacl -m {list} file"),
            "chmod 640 file".to_owned(),
            format!("setfacl -m {list},m::r file"),
            "setfacl -b file".to_owned(),
            "setfacl -m u::rwx,g::r,o::x file".to_owned(),
            format!("setfacl -d -m {list} sub"),
            "umask 077; echo contents > sub/file; mkdir sub/below; chmod 711 sub".to_owned(),
            format!("setfacl -m {list} sub"),
        ] {
            said.push(sh(dir, &change));
            said.extend(["file", "sub"].map(told));
            said.push(sh(dir, "getfacl --omit-header --numeric $(find . | sort)"));
        }
        said
    });
}

#[test]
fn owners_set_id_bits_and_sticky_directories_are_roots_to_change() {
    let Some(pair) = Pair::new("owners_set_id_bits_and_sticky_directories", "suid") else { return };
    pair.alike("what root may change", |dir| {
        let path = dir.join("file");
        fs::write(&path, "contents").unwrap();
        let mut said = Vec::new();
        for mode in [0o4755, 0o2755, 0o6711, 0o1644] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            said.push(seen(&path));
            fs::write(&path, "others").unwrap();
            said.push(seen(&path));
            chown(&path, Some(ADA.uid), Some(BOB.gid)).unwrap();
            said.push(seen(&path));
        }
        let sticky = dir.join("sticky");
        fs::create_dir(&sticky).unwrap();
        fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
        fs::write(sticky.join("hers"), "contents").unwrap();
        chown(sticky.join("hers"), Some(ADA.uid), Some(ADA.gid)).unwrap();
        chown(&sticky, Some(BOB.uid), Some(BOB.gid)).unwrap();
        said.push(seen(&sticky));
        assert!(fs::remove_file(sticky.join("hers")).is_ok());
        said
    });
}

#[test]
fn whoever_reaches_files_as_another_user_is_refused() {
    let Some(pair) = Pair::new("whoever_reaches_files_as_another_user", "") else { return };
    let path = pair.mount.join("file");
    fs::write(&path, "contents").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let refused = aside(|| {
        set_fs_uid(ADA.uid);
        let made = File::create(pair.mount.join("made")).map(drop);
        [
            made,
            fs::read(&path).map(drop),
            fs::remove_file(&path),
            fs::set_permissions(&path, Permissions::from_mode(0o666)),
        ]
        .map(|done| done.unwrap_err().kind())
    });
    assert!(refused.iter().all(|kind| matches!(kind, ErrorKind::PermissionDenied)), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"contents");
}

/// What is let through here and stopped elsewhere, each as it is with and without somebody who checks:
/// reading another's file without the right to override modes, opening it with `O_CREAT` and following
/// another's link in a third one's sticky directory, of which the latter depend on the machine's settings.
fn withheld(dir: &Path) -> [Result<(), i32>; 3] {
    let (file, link) = (dir.join("file"), dir.join("link"));
    fs::write(&file, "contents").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    symlink("file", &link).unwrap();
    for path in [&file, &link] {
        lchown(path, Some(ADA.uid), Some(ADA.gid)).unwrap();
    }
    fs::set_permissions(dir, Permissions::from_mode(0o1777)).unwrap();
    chown(dir, Some(BOB.uid), Some(BOB.gid)).unwrap();
    [
        without_override(|| outcome(fs::read(&file))),
        outcome(File::options().write(true).create(true).truncate(false).open(&file)),
        outcome(fs::read(&link)),
    ]
}

#[test]
fn the_kernel_checks_what_it_is_told_to() {
    let Some(pair) = Pair::new("the_kernel_checks_what_it_is_told_to", "default_permissions") else { return };
    let said = pair.answer_alike("what root is refused", withheld);
    assert_eq!(said[0], Err(libc::EACCES));

    // Without the option nobody does.
    pair.world.umount(&pair.mount);
    pair.world.mount("vol", &[]);
    let [_, ours] = pair.fresh();
    assert_eq!(withheld(&ours), [Ok(()); 3]);
}
