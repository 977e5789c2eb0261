//! What a check can find: one variant for each kind of damage, and its sentence.

use std::fmt;
use std::ops::Range;

use crate::format::layout::MapPage;
use crate::format::{FormatError, Id};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// None of the volume's business, or of no consequence. It does not count as an error.
    Note,
    /// What a crash leaves. The next mount sees to it as well.
    Interrupted,
    /// Data is lost or forged, or a copy that protects it is.
    Damage,
}

/// A part of a page that is kept twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A copy of the head: 0 or 1.
    Head(u8),
    /// A slot: 0 or 1.
    Slot(u8),
}

/// One thing that is wrong with one entry of the backing directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    // The volume.
    /// One of the two volume pages is missing.
    VolumePageMissing,
    /// A volume page cannot be read or is not authentic.
    VolumePageDamaged(FormatError),
    /// A volume page is older than the other.
    VolumePageOld,
    /// The volume was not unmounted properly.
    NotClean,
    /// The volume was unmounted properly, but not with every file settled.
    NotAllSettled,
    /// A file is newer than the volume's page: an old page was put back.
    EpochsBehind {
        /// Newest epoch of the file.
        epoch: u32,
        /// What the volume's page says that all are below.
        reserved: u32,
    },

    /// The index of the volume's files cannot be used.
    IndexDamaged,
    /// The index does not say what the headers say.
    IndexDiffers,

    // Pages: of the volume, of directories and of files.
    /// One copy of a part of a page is damaged, or is not the authentic one.
    PartDamaged(Part),

    // Directories.
    /// A directory's record is missing or damaged.
    RecordLost(FormatError),
    /// The record is authentic and belongs to another directory.
    RecordOfAnother(Id),
    /// The backing attribute that repeats a directory's id says something else.
    DirectoryIdDiffers,
    /// The directory cannot be listed to its end.
    Unlistable(i32),

    // Names.
    /// A backing name does not open in its directory.
    NameForged,
    /// The sidecar of a long name is missing.
    SidecarMissing,
    /// A sidecar does not fit its entry.
    SidecarForged,
    /// A sidecar without its entry.
    SidecarOrphaned,

    // Files.
    /// A file's header cannot be used; no part of the file can be read.
    HeaderLost(FormatError),
    /// The file says that it belongs to another volume.
    OtherVolume(Id),
    /// Another file has the same id.
    DuplicateId(Id),
    /// The file's length is not what its header demands.
    WrongLength {
        /// Bytes in the backing file.
        length: u64,
    },
    /// Its wrapped data key is not authentic.
    KeyForged,
    /// Chunks that cannot be read.
    Chunks {
        /// Their numbers.
        chunks: Range<u64>,
        /// What is wrong with each.
        error: FormatError,
    },
    /// A map page that cannot be read, and with it the chunks whose floors it holds.
    Map {
        /// Which one.
        page: MapPage,
        /// The chunks below it; none without keys.
        chunks: Range<u64>,
        /// What is wrong with it.
        error: FormatError,
    },
    /// The disk cannot read some of it.
    Unreadable {
        /// The chunks; none if it is not the data.
        chunks: Range<u64>,
        /// What the operating system says.
        errno: i32,
    },
    /// The file was being written or created when the mount ended.
    Unsettled,
    /// The file is between two data keys.
    Reencrypting,

    // Links.
    /// A symbolic link's target is not of this volume.
    LinkForged,
    /// The stored target of a symbolic link is missing.
    TargetMissing,
    /// A stored target without a link.
    TargetOrphaned,
    /// Two links share a stored target: one is a copy.
    TargetShared,

    // Attributes.
    /// An extended attribute does not open.
    AttributeForged(String),

    // Others.
    /// An entry that is not of the type its name says.
    WrongType,
    /// Left by something that was interrupted; it has no meaning.
    Leftover,
    /// No entry of the volume.
    Foreign,
    /// Something else is mounted there.
    OtherFilesystem,
}

impl Finding {
    /// Its name in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::VolumePageMissing => "volume-page-missing",
            Self::VolumePageDamaged(_) => "volume-page-damaged",
            Self::VolumePageOld => "volume-page-old",
            Self::NotClean => "not-clean",
            Self::NotAllSettled => "not-all-settled",
            Self::EpochsBehind { .. } => "epochs-behind",
            Self::IndexDamaged => "index-damaged",
            Self::IndexDiffers => "index-differs",
            Self::PartDamaged(_) => "part-damaged",
            Self::RecordLost(_) => "record-lost",
            Self::RecordOfAnother(_) => "record-of-another",
            Self::DirectoryIdDiffers => "directory-id-differs",
            Self::Unlistable(_) => "unlistable",
            Self::NameForged => "name-forged",
            Self::SidecarMissing => "sidecar-missing",
            Self::SidecarForged => "sidecar-forged",
            Self::SidecarOrphaned => "sidecar-orphaned",
            Self::HeaderLost(_) => "header-lost",
            Self::OtherVolume(_) => "other-volume",
            Self::DuplicateId(_) => "duplicate-id",
            Self::WrongLength { .. } => "wrong-length",
            Self::KeyForged => "key-forged",
            Self::Chunks { .. } => "chunks",
            Self::Map { .. } => "map",
            Self::Unreadable { .. } => "unreadable",
            Self::Unsettled => "unsettled",
            Self::Reencrypting => "reencrypting",
            Self::LinkForged => "link-forged",
            Self::TargetMissing => "target-missing",
            Self::TargetOrphaned => "target-orphaned",
            Self::TargetShared => "target-shared",
            Self::AttributeForged(_) => "attribute-forged",
            Self::WrongType => "wrong-type",
            Self::Leftover => "leftover",
            Self::Foreign => "foreign",
            Self::OtherFilesystem => "other-filesystem",
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Foreign | Self::OtherFilesystem | Self::Reencrypting => Severity::Note,
            Self::NotClean
            | Self::NotAllSettled
            | Self::VolumePageOld
            | Self::Unsettled
            | Self::SidecarOrphaned
            | Self::TargetOrphaned
            | Self::Leftover => Severity::Interrupted,
            _ => Severity::Damage,
        }
    }

    /// The chunks that it is about, if it is about some.
    pub fn chunks(&self) -> Option<&Range<u64>> {
        match self {
            Self::Chunks { chunks, .. } | Self::Map { chunks, .. } | Self::Unreadable { chunks, .. } => {
                Some(chunks).filter(|chunks| !chunks.is_empty())
            }
            _ => None,
        }
    }

    /// Whether `next`, found right behind this one, is the same for more chunks. Takes it over then.
    pub(super) fn absorb(&mut self, next: &Self) -> bool {
        match (self, next) {
            (Self::Chunks { chunks, error }, Self::Chunks { chunks: more, error: same })
                if chunks.end == more.start && error == same =>
            {
                chunks.end = more.end;
            }
            (Self::Unreadable { chunks, errno }, Self::Unreadable { chunks: more, errno: same })
                if chunks.end == more.start && errno == same && !chunks.is_empty() =>
            {
                chunks.end = more.end;
            }
            _ => return false,
        }
        true
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VolumePageMissing => write!(f, "this copy of the volume's page is missing"),
            Self::VolumePageDamaged(error) => write!(f, "this copy of the volume's page is useless: {error}"),
            Self::VolumePageOld => write!(f, "this copy of the volume's page is older than the other"),
            Self::NotClean => write!(f, "the volume was not unmounted properly"),
            Self::NotAllSettled => {
                write!(f, "not every file is known to be settled: old headers are not recognised")
            }
            Self::EpochsBehind { epoch, reserved } => write!(
                f,
                "its epoch {epoch} is not below {reserved}, as the volume's page promises: an old page was put back"
            ),
            Self::IndexDamaged => {
                write!(f, "the index of the volume's files is damaged or of another volume")
            }
            Self::IndexDiffers => write!(
                f,
                "the index counts other files than there are: some came, went or changed while it was not mounted"
            ),
            Self::PartDamaged(Part::Head(0)) => write!(f, "the head is damaged; its copy is good"),
            Self::PartDamaged(Part::Head(_)) => write!(f, "the copy of the head is damaged"),
            Self::PartDamaged(Part::Slot(n)) => write!(f, "slot {n} of the header is damaged or an old one"),
            Self::RecordLost(error) => write!(f, "the directory's record is lost: {error}"),
            Self::RecordOfAnother(id) => write!(f, "the directory's record is that of another one, {id}"),
            Self::DirectoryIdDiffers => write!(f, "the attribute that repeats the directory's id is wrong"),
            Self::Unlistable(errno) => write!(f, "the directory cannot be listed: {}", words(*errno)),
            Self::NameForged => {
                write!(f, "the name does not open in this directory: damaged, or moved here from elsewhere")
            }
            Self::SidecarMissing => write!(f, "the file with its long name is missing"),
            Self::SidecarForged => write!(f, "the file with its long name is damaged or of another entry"),
            Self::SidecarOrphaned => write!(f, "a long name whose entry is gone"),
            Self::HeaderLost(FormatError::Blank) => write!(f, "the header is blank: it was erased"),
            Self::HeaderLost(error) => write!(f, "the header cannot be used: {error}"),
            Self::OtherVolume(id) => write!(f, "it belongs to another volume, {id}"),
            Self::DuplicateId(id) => {
                write!(f, "another file or directory has the same id, {id}: one is a copy of the other")
            }
            Self::WrongLength { length } => {
                write!(f, "cut or lengthened: {length} bytes are not what the header demands")
            }
            Self::KeyForged => write!(f, "the wrapped data key is damaged or forged"),
            Self::Chunks { chunks, error } => write!(f, "{}: {error}", count(chunks, "chunk")),
            Self::Map { page, chunks, error } => {
                write!(f, "map page {} of level {}: {error}", page.index, page.level)?;
                if chunks.is_empty() {
                    Ok(())
                } else {
                    write!(f, "; it vouches for {}", count(chunks, "chunk"))
                }
            }
            Self::Unreadable { chunks, errno } if chunks.is_empty() => {
                write!(f, "cannot be read: {}", words(*errno))
            }
            Self::Unreadable { chunks, errno } => {
                write!(f, "{}: cannot be read: {}", count(chunks, "chunk"), words(*errno))
            }
            Self::Unsettled => write!(f, "interrupted while it was written, and not settled since"),
            Self::Reencrypting => write!(
                f,
                "its re-encryption is not done; 'kmsfs file set-key --new-data-key' goes on with it"
            ),
            Self::LinkForged => write!(f, "the link's target is damaged or not of this volume"),
            Self::TargetMissing => write!(f, "the link's stored target is missing"),
            Self::TargetOrphaned => write!(f, "a stored target whose link is gone"),
            Self::TargetShared => write!(f, "another link has the same stored target: one is a copy"),
            Self::AttributeForged(name) => {
                write!(f, "the attribute {name} is damaged or of another file or name")
            }
            Self::WrongType => write!(f, "not of the type that its name says"),
            Self::Leftover => write!(f, "left by something that was interrupted"),
            Self::Foreign => write!(f, "not an entry of the volume; mounts do not show it"),
            Self::OtherFilesystem => write!(f, "something else is mounted here; it was not looked into"),
        }
    }
}

/// A number of things: `chunk 3`, `chunks 3 to 9`.
fn count(range: &Range<u64>, thing: &str) -> String {
    match range.end - range.start {
        1 => format!("{thing} {}", range.start),
        _ => format!("{thing}s {} to {}", range.start, range.end - 1),
    }
}

/// An operating system's error without its number.
fn words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
