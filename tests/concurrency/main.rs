//! What must hold in whatever order the threads come: the real code under `shuttle`, which runs it
//! again and again on one thread of the system and chooses, at every lock, atomic, channel and
//! call to a disk, who goes on.
//!
//! `scripts/model` runs it. A schedule that fails is printed, and is the same whenever it is run
//! with the same code. `KMSFS_SCHEDULES` multiplies the number of schedules, `KMSFS_SEED` chooses
//! others.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cache;
mod explore;
mod handles;
mod master;
mod ranges;
mod revocation;
mod sealed;
mod service;
mod settling;
mod volume;
