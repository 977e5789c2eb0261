//! A key service behind a Unix socket.
//!
//! Calls share a few idle connections. One that turns out to be stale is replaced and the call
//! repeated; calls that must not happen twice get a connection of their own.

mod channel;
mod lease;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::embedded::{encryption_of, internal_key, open_of, same_context};
use super::{Provider, ProviderError, check_waiting};
use crate::kms::api::{
    DecryptRequest, DecryptResponse, Empty, EncryptResponse, GenerateDataKeyRequest, GenerateDataKeyResponse,
    KeyRequest, KeyResponse, NoteVolumeRequest, ReEncryptResponse,
};
use crate::kms::wire::{self, AUTHORIZE_OPEN, KMSFS, Reply, Request, TRENT};
use crate::kms::{
    DataKey, EncryptionContext, ErrorKind, KeyMetadata, KeyWatcher, KmsError, OnBehalf, UnwrappedDataKey,
};
use crate::kms::{Operation, socket};
use crate::secret::{KEY_LEN, Key};

/// How long a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections kept for the next call.
const MAX_IDLE: usize = 8;

/// Calls the key service that owns a store, through the socket beside it. May be used from any
/// thread; connects when needed, so it can be made before the service is there.
#[derive(Debug)]
pub struct SocketClient {
    dir: PathBuf,
    /// Shared with those that call on behalf of users.
    idle: Arc<Mutex<Vec<UnixStream>>>,
    on_behalf: Option<OnBehalf>,
}

impl SocketClient {
    /// A client of the service that owns the key store in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), idle: Arc::default(), on_behalf: None }
    }

    /// Any operation of [`wire::dispatch`], within [`CALL_TIMEOUT`].
    ///
    /// # Errors
    /// What the service answers; KeyUnavailable when there is none, DependencyTimeout when it
    /// does not answer in time. Nothing is known of the call's effect then.
    pub fn call(&self, target: &str, body: &Value) -> Result<Value, KmsError> {
        self.call_within(CALL_TIMEOUT, target, body)
    }

    /// As [`SocketClient::call`], for operations that wait for mounts and so take longer.
    ///
    /// # Errors
    /// As [`SocketClient::call`].
    pub fn call_within(&self, timeout: Duration, target: &str, body: &Value) -> Result<Value, KmsError> {
        let on_behalf = self.on_behalf.clone();
        let mut request = Request { target: target.to_owned(), body: body.clone(), on_behalf };
        let anew = || self.exchange(socket::connect(&self.dir, timeout)?, timeout, &request);
        let idle = if is_repeatable(target) { self.idle.lock().pop() } else { None };
        let reply = match idle.map(|stream| self.exchange(stream, timeout, &request)) {
            // As after a restart of the service; then the other idle ones are stale too.
            Some(Err(error)) if is_stale(&error) => {
                self.idle.lock().clear();
                anew()
            }
            Some(done) => done,
            None => anew(),
        };
        wire::wipe(&mut request.body);
        reply.map_err(|error| self.away(&error))?.into_result()
    }

    fn exchange(&self, mut stream: UnixStream, timeout: Duration, request: &Request) -> io::Result<Reply> {
        stream.set_write_timeout(Some(timeout))?;
        stream.set_read_timeout(Some(timeout))?;
        wire::write_frame(&mut stream, request)?;
        let reply = wire::read_frame(&mut stream)?;
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(stream);
        }
        Ok(reply)
    }

    fn typed<A: DeserializeOwned>(&self, operation: &str, request: &impl Serialize) -> Result<A, KmsError> {
        self.typed_target(&format!("{TRENT}{operation}"), request)
    }

    fn typed_target<A: DeserializeOwned>(
        &self,
        target: &str,
        request: &impl Serialize,
    ) -> Result<A, KmsError> {
        let mut body = serde_json::to_value(request).map_err(|error| malformed(&error))?;
        let answer = self.call(target, &body);
        wire::wipe(&mut body);
        let mut answer = answer?;
        let typed = A::deserialize(&answer).map_err(|error| malformed(&error));
        wire::wipe(&mut answer);
        typed
    }

    fn away(&self, error: &io::Error) -> KmsError {
        let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let kind = if timed_out { ErrorKind::DependencyTimeout } else { ErrorKind::KeyUnavailable };
        KmsError::new(kind, format!("no answer from the key service of {}: {error}", self.dir.display()))
    }
}

impl Provider for SocketClient {
    fn may_wait(&self, _key: Option<&str>) -> bool {
        true
    }

    fn generate_data_key(&self, key: &str, context: &EncryptionContext) -> Result<DataKey, ProviderError> {
        let request = GenerateDataKeyRequest {
            key_id: key.to_owned(),
            encryption_context: context.clone(),
            key_spec: Some("AES_256".to_owned()),
            ..GenerateDataKeyRequest::default()
        };
        let answer: GenerateDataKeyResponse = self.typed("GenerateDataKey", &request)?;
        Ok(DataKey {
            plaintext: into_key(answer.plaintext.as_deref().unwrap_or_default())?,
            blob: answer.ciphertext_blob,
            key_arn: answer.key_id,
            key_version: answer.key_material_version,
        })
    }

    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError> {
        let request = DecryptRequest {
            ciphertext_blob: blob.to_vec(),
            encryption_context: context.clone(),
            ..DecryptRequest::default()
        };
        let answer: DecryptResponse = self.typed("Decrypt", &request)?;
        Ok(UnwrappedDataKey {
            plaintext: into_key(&answer.plaintext)?,
            key_arn: answer.key_id,
            key_version: answer.key_material_version,
        })
    }

    fn rewrap(&self, blob: &[u8], context: &EncryptionContext, key: &str) -> Result<Vec<u8>, ProviderError> {
        check_waiting(|| true)?;
        let answer: ReEncryptResponse = self.typed("ReEncrypt", &same_context(blob, context, key))?;
        Ok(answer.ciphertext_blob)
    }

    fn wrap_data_key(
        &self,
        key: &str,
        data_key: &Key,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, ProviderError> {
        check_waiting(|| true)?;
        let answer: EncryptResponse = self.typed("Encrypt", &encryption_of(key, data_key, context))?;
        Ok(answer.ciphertext_blob)
    }

    fn describe_key(&self, key: &str) -> Result<KeyMetadata, ProviderError> {
        check_waiting(|| true)?;
        let answer: KeyResponse = self.typed("DescribeKey", &KeyRequest { key_id: key.to_owned() })?;
        Ok(answer.key_metadata)
    }

    fn create_internal_key(&self, description: &str) -> Result<KeyMetadata, ProviderError> {
        let answer: KeyResponse = self.typed("CreateKey", &internal_key(description))?;
        Ok(answer.key_metadata)
    }

    fn note_volume(&self, note: &NoteVolumeRequest) -> Result<(), ProviderError> {
        let body = serde_json::to_value(note).map_err(|error| malformed(&error))?;
        self.call(&format!("{KMSFS}NoteVolume"), &body).map(drop)?;
        Ok(())
    }

    fn on_behalf(&self, whom: OnBehalf) -> Result<Arc<dyn Provider>, ProviderError> {
        let (dir, idle) = (self.dir.clone(), Arc::clone(&self.idle));
        Ok(Arc::new(Self { dir, idle, on_behalf: Some(whom) }))
    }

    fn authorize_open(
        &self,
        key: &str,
        version: u32,
        context: &EncryptionContext,
    ) -> Result<(), ProviderError> {
        check_waiting(|| true)?;
        let Empty {} = self.typed_target(AUTHORIZE_OPEN, &open_of(key, version, context))?;
        Ok(())
    }

    fn attach(&self, watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError> {
        Ok(Box::new(channel::attach(&self.dir, watcher)?))
    }
}

fn into_key(bytes: &[u8]) -> Result<Key, ProviderError> {
    let bytes: Option<Zeroizing<[u8; KEY_LEN]>> = bytes.try_into().ok().map(Zeroizing::new);
    match bytes {
        Some(mut bytes) => Ok(Key::take_from(&mut bytes)),
        None => Err(ProviderError::InvalidCiphertext("not a 256-bit data key".to_owned())),
    }
}

/// Whether a call may be made twice when it is not known whether the first one arrived.
fn is_repeatable(target: &str) -> bool {
    if target == AUTHORIZE_OPEN {
        return true;
    }
    let named = |operation: &Operation| target.strip_prefix(TRENT) == Some(operation.to_string().as_str());
    Operation::ALL.iter().find(|operation| named(operation)).is_some_and(|operation| {
        operation.is_cryptographic()
            || matches!(operation, Operation::DescribeKey | Operation::GenerateRandom)
    })
}

fn is_stale(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
    )
}

fn malformed(error: &serde_json::Error) -> KmsError {
    KmsError::new(ErrorKind::Internal, format!("malformed message: {error}"))
}
