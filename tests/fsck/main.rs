//! `kmsfs fsck` and `kmsfs scrub`: every kind of damage is found, named for what it is and where it
//! is, and repaired without losing anything; and nothing is ever found in a volume that is in order.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/unmounted.rs"]
mod unmounted;

mod bench;
mod cases;
mod clean;
mod command;
mod crash;
mod keys;
mod matrix;
mod scrub;
mod sectors;
