//! The service as messages: AWS JSON 1.1 targets and bodies, and the frames that carry them over
//! a Unix socket.
//!
//! A frame is a little-endian 32-bit length and so many bytes of JSON. A request is
//! `{"Target": "TrentService.DescribeKey", "Body": {...}}`, its answer
//! `{"Status": 200, "Body": {...}}`; an error's body is `{"__type": ..., "message": ...}`.
//!
//! After [`ATTACH_MOUNT`] the connection turns round: the service sends [`Event`]s and the mount
//! answers each, in any order, with an [`EventReply`].

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::api::KeyResponse;
use super::error::{ErrorKind, KmsError};
use super::id::KeyId;
use super::service::{Caller, Service};
use super::state::KeyState;
use super::watch::{CutReport, MountStatus};

/// Longest frame in bytes, without its length.
pub const MAX_FRAME: usize = 1 << 20;
/// Prefix of the targets of AWS KMS.
pub const TRENT: &str = "TrentService.";
/// Target that answers the state of the service and its mounts.
pub const STATUS: &str = "Kmsfs.Status";
/// Prefix of the targets of the store's own operations.
pub const KMSFS: &str = "Kmsfs.";
/// Target that turns its connection into a mount's event channel.
pub const ATTACH_MOUNT: &str = "Kmsfs.AttachMount";

/// A call on its way to the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Request {
    /// Operation, such as `TrentService.Decrypt`.
    pub target: String,
    /// Its parameters.
    #[serde(default)]
    pub body: Value,
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
    Drain { id: u64, key_id: KeyId, budget_ms: u64 },
    /// Answered with a report.
    Cut { id: u64, key_id: KeyId, key_state: KeyState },
    /// Answered with neither.
    Restore { id: u64, key_id: KeyId },
    /// Answered with the mount's status.
    Describe { id: u64 },
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

/// Carries out the operation that `target` names.
///
/// # Errors
/// UnsupportedOperation for an unknown target, Validation for a body that is not of its shape,
/// else what the operation answers.
pub fn dispatch(service: &Service, caller: &Caller, target: &str, body: &Value) -> Result<Value, KmsError> {
    if target == STATUS {
        return answer(&service.status());
    }
    if target == ATTACH_MOUNT {
        return Err(KmsError::validation("a mount attaches on a Unix socket connection of its own"));
    }
    if let Some(operation) = target.strip_prefix(KMSFS) {
        return look_after(service, caller, operation, body);
    }
    let operation = target.strip_prefix(TRENT).ok_or_else(|| unknown(target))?;
    let key = |metadata| KeyResponse { key_metadata: metadata };
    match operation {
        "CreateKey" => call(body, |request| service.create_key(caller, &request).map(key)),
        "DescribeKey" => call(body, |request| service.describe_key(caller, &request).map(key)),
        "ListKeys" => call(body, |request| service.list_keys(caller, &request)),
        "EnableKey" => call(body, |request| service.enable_key(caller, &request)),
        "DisableKey" => call(body, |request| service.disable_key(caller, &request)),
        "ScheduleKeyDeletion" => call(body, |request| service.schedule_key_deletion(caller, &request)),
        "CancelKeyDeletion" => call(body, |request| service.cancel_key_deletion(caller, &request)),
        "RotateKeyOnDemand" => call(body, |request| service.rotate_key_on_demand(caller, &request)),
        "ListKeyRotations" => call(body, |request| service.list_key_rotations(caller, &request)),
        "CreateAlias" => call(body, |request| service.create_alias(caller, &request)),
        "UpdateAlias" => call(body, |request| service.update_alias(caller, &request)),
        "DeleteAlias" => call(body, |request| service.delete_alias(caller, &request)),
        "ListAliases" => call(body, |request| service.list_aliases(caller, &request)),
        "GenerateDataKey" => call(body, |request| service.generate_data_key_bytes(caller, &request)),
        "GenerateDataKeyWithoutPlaintext" => {
            call(body, |request| service.generate_data_key_without_plaintext(caller, &request))
        }
        "Encrypt" => call(body, |request| service.encrypt(caller, &request)),
        "Decrypt" => call(body, |request| service.decrypt(caller, &request)),
        "ReEncrypt" => call(body, |request| service.re_encrypt(caller, &request)),
        "GenerateRandom" => call(body, |request| service.generate_random(caller, &request)),
        _ => Err(unknown(target)),
    }
}

/// Carries out an operation on the store itself.
fn look_after(service: &Service, caller: &Caller, operation: &str, body: &Value) -> Result<Value, KmsError> {
    match operation {
        "StoreInfo" => answer(&service.store_info()?),
        "CheckStore" => call(body, |request| service.check_store(&request)),
        "BackUpStore" => call(body, |request| service.back_up(caller, &request)),
        "KeepBackup" => call(body, |request| service.keep_backup(caller, &request)),
        "AddUnlockSlot" => call(body, |request| service.add_unlock_slot(caller, &request)),
        "RemoveUnlockSlot" => call(body, |request| service.remove_unlock_slot(caller, &request)),
        _ => Err(unknown(operation)),
    }
}

/// Overwrites the plaintexts in a request or answer that has been dealt with.
pub fn wipe(body: &mut Value) {
    let Value::Object(members) = body else { return };
    for (name, value) in members {
        match value {
            Value::String(text) if name == "Plaintext" => text.zeroize(),
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

fn call<Q: DeserializeOwned, A: Serialize>(
    body: &Value,
    operation: impl FnOnce(Q) -> Result<A, KmsError>,
) -> Result<Value, KmsError> {
    let empty = Value::Object(serde_json::Map::new());
    let body = if body.is_null() { &empty } else { body };
    let request = Q::deserialize(body).map_err(|error| KmsError::validation(error.to_string()))?;
    answer(&operation(request)?)
}

fn answer(response: &impl Serialize) -> Result<Value, KmsError> {
    serde_json::to_value(response).map_err(|error| KmsError::new(ErrorKind::Internal, error.to_string()))
}

fn unknown(target: &str) -> KmsError {
    KmsError::new(ErrorKind::UnsupportedOperation, format!("unknown operation {target}"))
}
