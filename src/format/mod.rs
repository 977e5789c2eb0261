//! The bytes on disk, format version 1. `docs/FORMAT.md` draws them; `tests/format_doc.rs` checks
//! the drawing against the constants here.
//!
//! Three kinds of object begin with a [`page::Page`]: a file, a directory record and the volume
//! itself. A file's page is followed by its chunks ([`layout`], [`mod@unit`]) with map pages between
//! them that hold the *floor epochs* of the chunks ([`floors`]).

pub mod floors;
pub mod head;
pub mod index;
pub mod layout;
pub mod page;
pub mod schedule;
pub mod slot;
pub mod state;
pub mod unit;

use thiserror::Error;

/// Format version that this program writes.
pub const VERSION: u16 = 1;
/// Feature flags that this program understands. A set bit outside of it is refused.
pub const KNOWN_FEATURES: u32 = 0;
/// Bytes in a page, the unit that a disk is assumed to write whole.
pub const PAGE_LEN: usize = 4096;
/// Name of the volume's page in the backing directory.
pub const VOLUME_NAME: &str = "kmsfs.volume";
/// Name of its second copy.
pub const VOLUME_COPY_NAME: &str = "kmsfs.volume.copy";
/// Name of the directory record in every backing directory but the root's.
pub const DIRECTORY_NAME: &str = "kmsfs.dir";
/// What the name of every backing attribute that holds a sealed user attribute begins with.
pub const SEALED_XATTR_PREFIX: &str = "user.kmsfs.x.";
/// What the name of every backing entry that is not an encrypted name begins with. An encrypted
/// name cannot: it has no dot.
pub const RESERVED_PREFIX: &str = "kmsfs.";

/// 128-bit identifier of a volume, a directory or a file: random, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// A fresh random identifier.
    ///
    /// # Errors
    /// When the operating system's random number generator fails.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Why bytes on disk were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The page holds nothing but zeros: it was never durable, or somebody erased it.
    #[error("the header is empty")]
    Blank,
    /// No copy of the head has the magic number and a matching checksum.
    #[error("not a kmsfs object, or its head is damaged")]
    NotKmsfs,
    /// Written by a newer program.
    #[error("format version {0} is not known to this program, which reads version 1")]
    UnknownVersion(u16),
    /// Uses features that this program does not have.
    #[error("uses unknown features {0:#010x}")]
    UnknownFeatures(u32),
    /// The object is of another kind than the place where it was found demands.
    #[error("the object is of the wrong kind")]
    WrongKind,
    /// A field has a value that no writer produces.
    #[error("a field has an impossible value")]
    Impossible,
    /// Both slots are damaged.
    #[error("both header slots are damaged")]
    NoValidSlot,
    /// Something sealed does not open: forged, damaged, or from elsewhere.
    #[error("authentication failed")]
    Forged,
    /// A chunk or map page is older than its floor: an old copy was put back.
    #[error("an older copy was put in place of the current one")]
    Replayed,
    /// A chunk or map page that was written is gone.
    #[error("written data was erased")]
    Erased,
    /// The physical size is not what the sealed state demands.
    #[error("the file was cut or lengthened")]
    WrongSize,
}

impl From<crate::crypto::OpenError> for FormatError {
    fn from(_: crate::crypto::OpenError) -> Self {
        Self::Forged
    }
}

impl From<crate::codec::Truncated> for FormatError {
    fn from(_: crate::codec::Truncated) -> Self {
        Self::Impossible
    }
}
