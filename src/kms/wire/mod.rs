//! The service as messages: AWS JSON 1.1 targets and bodies, and the frames that carry them over
//! a Unix socket.
//!
//! A frame is a little-endian 32-bit length and so many bytes of JSON. A request is
//! `{"Target": "TrentService.DescribeKey", "Body": {...}}`, its answer
//! `{"Status": 200, "Body": {...}}`; an error's body is `{"__type": ..., "message": ...}`.
//!
//! After [`ATTACH_MOUNT`] the connection turns round: the service sends [`Event`]s and the mount
//! answers each, in any order, with an [`EventReply`].

mod dispatch;

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::error::KmsError;
use super::id::KeyId;
use super::service::OnBehalf;
use super::state::KeyState;
use super::watch::{CutReport, MountStatus};

pub use dispatch::{dispatch, dispatch_request};

/// Longest frame in bytes, without its length.
pub const MAX_FRAME: usize = 1 << 20;
/// Prefix of the targets of AWS KMS.
pub const TRENT: &str = "TrentService.";
/// Target that answers the state of the service and its mounts.
pub const STATUS: &str = "Kmsfs.Status";
/// Prefix of the targets of the store's own operations.
pub const KMSFS: &str = "Kmsfs.";
/// Target that asks whether a user may open a file.
pub const AUTHORIZE_OPEN: &str = "Kmsfs.AuthorizeOpen";
/// Target that turns its connection into a mount's event channel.
pub const ATTACH_MOUNT: &str = "Kmsfs.AttachMount";

/// Members that hold secrets.
const SECRETS: [&str; 4] = ["Plaintext", "PrivateKeyPlaintext", "SecretAccessKey", "RawSecretAccessKey"];

/// A call on its way to the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Request {
    /// Operation, such as `TrentService.Decrypt`.
    pub target: String,
    /// Its parameters.
    #[serde(default)]
    pub body: Value,
    /// The user whom a mount calls for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf: Option<OnBehalf>,
}

/// An answer on its way back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Reply {
    /// HTTP status: 200, or that of the error.
    pub status: u16,
    /// The result or the error.
    pub body: Value,
}

impl Reply {
    /// The result of the call, or the error that the service answered.
    ///
    /// # Errors
    /// What the service answered.
    pub fn into_result(self) -> Result<Value, KmsError> {
        if self.status == 200 { Ok(self.body) } else { Err(KmsError::from_wire(&self.body)) }
    }
}

impl From<Result<Value, KmsError>> for Reply {
    fn from(result: Result<Value, KmsError>) -> Self {
        match result {
            Ok(body) => Self { status: 200, body },
            Err(error) => Self { status: error.status(), body: error.to_wire() },
        }
    }
}

/// What the service tells a mount; see [`KeyWatcher`](super::KeyWatcher).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Event", rename_all_fields = "PascalCase")]
#[allow(missing_docs)] // The members are the parameters of the watcher's methods.
pub enum Event {
    /// Answered with a report.
    Drain {
        id: u64,
        key_id: KeyId,
        budget_ms: u64,
        #[serde(default)]
        keep: bool,
    },
    /// Answered with a report.
    Cut { id: u64, key_id: KeyId, key_state: Option<KeyState> },
    /// Answered with neither.
    Restore { id: u64, key_id: KeyId },
    /// Answered with a report.
    Lock { id: u64, budget_ms: u64 },
    /// Answered with neither.
    Unlock { id: u64 },
    /// Answered with the mount's status.
    Describe { id: u64 },
    /// Answered with the mount's status, if that is durable.
    Vouch { id: u64 },
    /// The service is there. Not answered.
    Alive,
}

/// A mount's answer to an [`Event`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EventReply {
    /// The event's number.
    pub id: u64,
    /// What was drained or cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<CutReport>,
    /// What the mount is doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountStatus>,
}

/// Overwrites the plaintexts in a request or answer that has been dealt with.
pub fn wipe(body: &mut Value) {
    let Value::Object(members) = body else { return };
    for (name, value) in members {
        match value {
            Value::String(text) if SECRETS.contains(&name.as_str()) => text.zeroize(),
            nested => wipe(nested),
        }
    }
}

/// Writes `message` as one frame.
///
/// # Errors
/// Those of the transport; `InvalidData` when the message is longer than [`MAX_FRAME`].
pub fn write_frame(transport: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    // Room for any data key, so that serializing does not leave copies behind by growing.
    let mut frame = Zeroizing::new(Vec::with_capacity(16 * 1024));
    frame.extend([0; 4]);
    serde_json::to_writer(&mut *frame, message)?;
    let len = frame.len() - 4;
    if len > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long for a frame"));
    }
    let prefix = (len as u32).to_le_bytes();
    frame[..4].copy_from_slice(&prefix);
    transport.write_all(&frame)?;
    transport.flush()
}

/// Reads one frame.
///
/// # Errors
/// Those of the transport; `InvalidData` when the frame is too long or not of the shape of `T`.
pub fn read_frame<T: DeserializeOwned>(transport: &mut impl Read) -> io::Result<T> {
    let mut prefix = [0; 4];
    transport.read_exact(&mut prefix)?;
    let len = u32::from_le_bytes(prefix) as usize;
    if len > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut frame = Zeroizing::new(vec![0; len]);
    transport.read_exact(&mut frame)?;
    Ok(serde_json::from_slice(&frame)?)
}
