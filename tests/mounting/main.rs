//! The ways in which a volume is mounted and unmounted: by users, by mount(8) and fstab(5), by a
//! service manager, for reading only; and how it ends, asked or unasked. All on real mounts.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;

mod ending;
mod handover;
mod idle;
mod mount8;
mod namespace;
mod read_only;
mod service;
mod user;
mod wakeful;
