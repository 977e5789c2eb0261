//! Why the log could not be written or read.

use std::io;
use std::path::Path;

use thiserror::Error;

/// A failure of the log. Every call that waited for the same write gets a copy of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuditError {
    /// The file system is full.
    #[error("no space left for the audit log: free some, then retry")]
    NoSpace,
    /// The file system cannot be written.
    #[error("the audit log is on a file system that is read-only: make it writable, then retry")]
    ReadOnly,
    /// Too much is waiting to be written, for too long.
    #[error("the audit log's disk is too slow for this many calls: retry later")]
    Behind,
    /// Another failure of the operating system.
    #[error("{what}: {source}: check the permissions and the device of the key store's directory")]
    Io {
        /// What was being done, to which file.
        what: String,
        /// Why it failed.
        source: Cause,
    },
}

/// An error of the operating system that can be copied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct Cause {
    /// Its kind.
    pub kind: io::ErrorKind,
    text: String,
}

impl AuditError {
    /// For `map_err`: an error while doing `what` to `path`.
    pub(super) fn io<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            kind => {
                let source = Cause { kind, text: source.to_string() };
                Self::Io { what: format!("{what} {}", path.display()), source }
            }
        }
    }
}
