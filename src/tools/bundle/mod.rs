//! Taking a volume's keys to another key store: out of the old one into a bundle, sealed for whoever
//! knows a secret, and out of that under a master key of the new one.
//!
//! The ciphertext is copied by any means before or after. What is already under the new key store is
//! left alone, so that an import that ended early is begun again.

mod adopting;
mod export;
mod format;
mod import;

use std::path::PathBuf;

pub use adopting::Adopting;
pub use export::{Exported, export};
pub use format::{Bundle, BundleError, Kind, RECORD_LEN, Writer};
pub use import::{Imported, import};

/// Files that are named; more are counted.
const MAX_NAMED: usize = 10_000;

/// A file or directory whose key did not get where it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub cause: Cause,
}

/// Why a key did not get where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The bundle does not have it: the file came after the export, or could not be read then.
    NotInBundle,
    /// As the operating system says it.
    Failed(i32),
}

/// What is missing, named as far as that is not too much.
#[derive(Debug, Default)]
pub struct AllMissing {
    /// Named.
    pub named: Vec<Missing>,
    /// How many there are.
    pub count: u64,
}

impl AllMissing {
    fn add(&mut self, path: PathBuf, cause: Cause) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(Missing { path, cause });
        }
    }

    fn add_failed(&mut self, path: PathBuf, error: &std::io::Error) {
        self.add(path, Cause::Failed(error.raw_os_error().unwrap_or(libc::EIO)));
    }
}
