//! Real programs on a mount, as `scripts/programs --quick` lets them work: each checks what it did,
//! and once more after the volume was unmounted and mounted.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::process::Command;

use common::{can_mount, is_root, run, skipped};

/// What the script ends with if a program is not installed.
const NOT_INSTALLED: i32 = 77;

#[test]
fn git_clones_commits_and_finds_every_object() {
    works("git_clones_commits_and_finds_every_object", "git");
}

#[test]
fn sqlite_keeps_what_it_committed_before_it_was_killed() {
    works("sqlite_keeps_what_it_committed_before_it_was_killed", "sqlite");
}

#[test]
fn tar_brings_everything_into_the_mount_and_out_again() {
    works("tar_brings_everything_into_the_mount_and_out_again", "tar");
}

#[test]
fn rsync_finds_nothing_left_to_do() {
    works("rsync_finds_nothing_left_to_do", "rsync");
}

#[test]
fn an_editor_saves_in_both_of_its_ways() {
    works("an_editor_saves_in_both_of_its_ways", "editor");
}

#[track_caller]
fn works(test: &str, program: &str) {
    if !is_root(test) || !can_mount(test) {
        return;
    }
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/programs"));
    command.args(["--quick", program]).env("KMSFS", env!("CARGO_BIN_EXE_kmsfs"));
    command.env_remove("REPOSITORY").env_remove("TMPDIR");
    let ran = run(command);
    if ran.code == NOT_INSTALLED {
        skipped(test, &format!("{program} is not installed"));
        return;
    }
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    // It has been on both, and compared.
    assert!(ran.stdout.lines().any(|line| line.starts_with(program)), "{}", ran.stdout);
}
