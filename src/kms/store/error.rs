//! Why a key store could not be opened, created or written.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Each message says what happened and what to do next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no key store in the directory.
    #[error("no key store in {}: create one, or name the directory that holds it", .0.display())]
    NotFound(PathBuf),
    /// There is a key store in the directory already.
    #[error("{} holds a key store already: open it, or choose another directory", .0.display())]
    AlreadyExists(PathBuf),
    /// The passphrase or key file fits none of the unlock slots.
    #[error(
        "wrong passphrase or key file (or a damaged unlock slot): try again, or use another slot's secret"
    )]
    WrongSecret,
    /// Another process has the store open.
    #[error("the key store is in use by {}: talk to that process through its socket, or end it first", owner(.pid))]
    InUse {
        /// The process that has it open, if it said so.
        pid: Option<u32>,
    },
    /// Made by a newer release.
    #[error("the key store has format version {found}, this release knows {known}: use a newer release")]
    UnknownVersion {
        /// The version in the file.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// The file is no key store.
    #[error("{} is not a key store: check the directory's name", .0.display())]
    NotAStore(PathBuf),
    /// The store's contents are not what was written.
    #[error("the key store is damaged ({0}): restore it from a backup")]
    Damaged(String),
    /// The file system is full.
    #[error("no space left for the key store, nothing was changed: free some, then retry")]
    NoSpace,
    /// An unlock secret, cost or name is out of bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// Another failure of the operating system.
    #[error("{what}: {source}: check the directory's permissions and device")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// For `map_err`: an I/O error while doing `what`.
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io { what, source },
        }
    }

    /// For `map_err`: any error of the embedded database.
    pub(super) fn database(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(source) => Self::io("key store file")(source),
            redb::Error::DatabaseAlreadyOpen => Self::InUse { pid: None },
            redb::Error::Corrupted(what) => Self::Damaged(what),
            other => Self::Io { what: "key store file", source: io::Error::other(other.to_string()) },
        }
    }
}

impl From<getrandom::Error> for StoreError {
    fn from(error: getrandom::Error) -> Self {
        Self::Io { what: "random numbers", source: io::Error::other(error.to_string()) }
    }
}

fn owner(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
