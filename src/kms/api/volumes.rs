//! Volumes that use the key store, what its keys wrap in them, and the end of a version.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::encoding::seconds;
use crate::kms::watch::VolumeFiles;

/// Request of Kmsfs.NoteVolume: a process has a volume open for writing, or has let go of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NoteVolumeRequest {
    /// The volume's id.
    pub volume_id: String,
    /// Its directory.
    pub path: String,
    /// Whether it is open: what was known of its files counts no more.
    pub open: bool,
    /// Else what is known of its files.
    pub files: VolumeFiles,
}

/// How a volume is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VolumeState {
    /// It is mounted, and the mount answers for it.
    Mounted,
    /// It was unmounted, and was then as it is said to be.
    Unmounted,
    /// It was open when it was last heard of, or is mounted and does not answer.
    Lost,
    /// It was made with this key store and never heard of since.
    #[default]
    Unseen,
}

/// A volume that uses the key store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KnownVolume {
    /// The volume's id.
    pub volume_id: String,
    /// Its directory, as it was last known.
    pub path: String,
    /// How it is known.
    pub state: VolumeState,
    /// When it was last opened or let go of.
    #[serde(with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Where it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<String>,
    /// What is known of its files.
    pub files: VolumeFiles,
}

/// Answer of Kmsfs.ListVolumes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListVolumesResponse {
    /// In order of their ids; one that is mounted twice is there twice.
    pub volumes: Vec<KnownVolume>,
}

/// Request of Kmsfs.ForgetVolume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ForgetVolumeRequest {
    /// The volume's id.
    pub volume_id: String,
}

/// Answer of Kmsfs.GetKeyImpact: what depends on a master key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KeyImpactResponse {
    /// ARN of the key.
    pub key_id: String,
    /// Whether the numbers are those of every known volume, all of them certain.
    pub certain: bool,
    /// Files that it wraps, as far as is known.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Open handles of these.
    pub handles: u64,
    /// All known volumes.
    pub volumes: Vec<VolumeImpact>,
}

/// What depends on a master key in one volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeImpact {
    /// The volume's id.
    pub volume_id: String,
    /// Its directory, as it was last known; empty for callers from the network.
    pub path: String,
    /// How it is known.
    pub state: VolumeState,
    /// When it was last opened or let go of.
    #[serde(with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Where it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<String>,
    /// Whether the numbers are certain.
    pub certain: bool,
    /// Files that the key wraps.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The same by version.
    pub versions: Vec<VersionImpact>,
    /// Files under the key that are open.
    pub open_files: u64,
    /// Who has them open.
    pub users: Vec<UserImpact>,
}

/// What depends on a version of a master key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VersionImpact {
    /// The version.
    pub key_version: u32,
    /// Files that it wraps.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A user of files under a master key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UserImpact {
    /// User id.
    pub uid: u32,
    /// Open handles.
    pub handles: u64,
}

/// Request of Kmsfs.RetireKeyVersion.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RetireKeyVersionRequest {
    /// Id or ARN of the key.
    pub key_id: String,
    /// The version.
    pub key_version: u32,
    /// Volumes that are not mounted and are not to be asked for: what they have under this version is
    /// lost.
    pub leave_out: Vec<String>,
}

/// Answer of Kmsfs.RetireKeyVersion.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RetireKeyVersionResponse {
    /// ARN of the key.
    pub key_id: String,
    /// The version that cannot unwrap anything any more.
    pub key_version: u32,
    /// Volumes that were asked for.
    pub volumes: u64,
    /// Volumes that were left out.
    pub left_out: Vec<String>,
}
