//! Why a key store could not be opened, created or written.

use std::io;
use std::path::{Path, PathBuf};

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
    /// The store is open, and its root key is not in memory.
    #[error("the key store is locked: unlock it with 'kmsfs unlock', then retry")]
    Locked,
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
    #[error("no space left, nothing was changed: free some, then retry")]
    NoSpace,
    /// The backup that is to be kept with the store could not be written.
    #[error(
        "the backup {} could not be written ({}), so nothing was changed: make its place writable, or \
         choose another with 'kmsfs store backup --auto FILE', or none with '--no-auto'", .path.display(), why(.source)
    )]
    NotBackedUp {
        /// The backup.
        path: PathBuf,
        /// Why.
        source: Box<StoreError>,
    },
    /// There is a file already where a backup was to be written.
    #[error("{} exists already and is not written over: choose another name, or use --force", .0.display())]
    BackupExists(PathBuf),
    /// The file is no backup.
    #[error("{} is not a backup of a key store: check the file's name", .0.display())]
    NotABackup(PathBuf),
    /// The backup was made by another release.
    #[error("{} is a backup of format version {found}, this release knows {known}: use a newer release", .path.display())]
    BackupVersion {
        /// The backup.
        path: PathBuf,
        /// The version in it.
        found: u32,
        /// The version known.
        known: u32,
    },
    /// The backup's contents are not what was written.
    #[error("the backup {} is damaged ({what}): use another backup", .path.display())]
    BackupDamaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The backup lacks key versions that the store has.
    #[error("the backup {} lacks {}: make a new one with 'kmsfs store backup'", .path.display(), .missing.join(", "))]
    BackupBehind {
        /// The backup.
        path: PathBuf,
        /// What is missing.
        missing: Vec<String>,
    },
    /// Restoring would take the place of what is there.
    #[error("{} holds {what}{}: restore into another directory with --keystore, or replace it and keep it aside with --force", .dir.display(), losing(.lost))]
    WouldReplace {
        /// The store's directory.
        dir: PathBuf,
        /// What is in it.
        what: String,
        /// Key versions that are there and not in the backup; the last may be "5 more".
        lost: Vec<String>,
    },
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
    pub(in crate::kms) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// For `map_err`: an I/O error while doing `what`.
    pub(in crate::kms) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io { what, source },
        }
    }

    /// As [`StoreError::io`], naming the file.
    pub(super) fn io_on(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            kind => {
                let text = source.to_string();
                let words = text.split(" (os error").next().unwrap_or_default();
                Self::Io { what, source: io::Error::new(kind, format!("{}: {words}", path.display())) }
            }
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

/// What happened, without what to do next: the enclosing message says that.
fn why(error: &StoreError) -> String {
    match error {
        StoreError::Io { source, .. } => source.to_string(),
        StoreError::NoSpace => "no space left".to_owned(),
        StoreError::BackupExists(_) => "there is another file".to_owned(),
        other => other.to_string(),
    }
}

fn losing(lost: &[String]) -> String {
    match lost {
        [] => String::new(),
        lost => format!(", with key versions that the backup lacks ({})", lost.join(", ")),
    }
}

fn owner(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
