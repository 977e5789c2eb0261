//! A file's plaintext as sealed chunks in a backing file.
//!
//! [`SealedFile`] holds no key: every operation is handed the file's keys, so that taking a key
//! away is a matter for whoever hands it out. What it promises:
//!
//! * a byte that it returns was written at that place, or it is zero in a hole that the header
//!   allows; anything else is an error;
//! * before the file holds less than its header promises (a cut, a punched hole), the header
//!   durably promises less; so an interruption never looks like an attack;
//! * one flush of the backing file makes everything written before it durable.

mod backing;
mod buffer;
mod error;
mod file;
mod map;
mod read;
mod reencrypt;
mod rewrap;
mod seek;
mod settle;
mod shrink;
mod verify;
mod write;

pub use backing::{Backing, Memory};
pub use error::ChunkError;
pub use file::{Integrity, Opened, SealedFile, Unwrap};
pub use reencrypt::Reencryption;
pub use rewrap::ClosedHeader;
pub use settle::{Settling, Step};
pub use verify::{Flaw, Inspector, Mark};
