//! The ways in which a volume is mounted and unmounted: by users, by mount(8) and fstab(5), by a
//! service manager, for reading only; and how it ends, asked or unasked. All on real mounts.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;

//E
//H
//I
//M
mod namespace;
//R
//S
mod user;
