//! Errors as one line and an exit code. The codes are listed in `kmsfs --help` and are never
//! reused.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::format::FormatError;
use crate::fs::{FsError, VolumeError};
use crate::kms::{ErrorKind, KmsError, Reason, StoreError};
use crate::provider::ProviderError;

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Unexpected = 1,
    Usage = 2,
    NotAVolume = 10,
    VolumeFormat = 11,
    VolumeInUse = 12,
    WrongSecret = 13,
    NoKeyStore = 14,
    ForeignKey = 15,
    MountPoint = 16,
    ReadOnly = 17,
    NoSpace = 18,
    NoSuchKey = 19,
    KeyState = 20,
    NotAMount = 21,
    StoreInUse = 22,
    NotEmpty = 23,
    NoSecret = 24,
    NoFuse = 25,
    MountBusy = 26,
    NameTaken = 27,
    Permission = 28,
    NotBackedUp = 29,
    BadBackup = 30,
    WouldLose = 31,
    AuditLog = 32,
    Left = 33,
    Interrupted = 34,
    NotConfirmed = 35,
    NotAsExpected = 36,
    StillUsed = 37,
    NotAllLocked = 38,
    NotReencrypted = 39,
    Unwritten = 40,
    NotVerified = 41,
    KeysMissing = 42,
}

/// An error for a person: what is wrong and what to do next, on one line.
#[derive(Debug)]
pub(super) struct CliError {
    code: u8,
    message: String,
    /// What a program gets beside the message.
    details: Option<Box<Value>>,
}

/// Result of a command.
pub(super) type CliResult<T> = Result<T, CliError>;

impl CliError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::relayed(code as u8, message.into())
    }

    /// An error that another process of this program reported.
    pub(super) fn relayed(code: u8, message: String) -> Self {
        Self { code, message, details: None }
    }

    /// This error, with members for the JSON object that a program gets.
    pub(super) fn with(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// An error of the operating system about a path.
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        let (code, next) = match error.raw_os_error() {
            Some(libc::EROFS) => (Code::ReadOnly, "choose a place that can be written"),
            Some(libc::ENOSPC | libc::EDQUOT) => (Code::NoSpace, "free some space, then retry"),
            Some(libc::EACCES | libc::EPERM) => {
                (Code::Permission, "run it as the user who may, or change the permissions")
            }
            Some(libc::ENOENT | libc::ENOTDIR) => (Code::Unexpected, "check the path"),
            Some(libc::ENOTCONN) => {
                (Code::Unexpected, "the mount has died: 'kmsfs umount' it, then mount again")
            }
            _ => (Code::Unexpected, "see the system's log"),
        };
        Self::new(code, format!("{}: {}; {next}", path.display(), words(error)))
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    pub(super) fn code(&self) -> u8 {
        self.code
    }

    pub(super) fn is(&self, code: Code) -> bool {
        self.code == code as u8
    }

    /// The error for a program.
    pub(super) fn to_json(&self) -> Value {
        let mut object = json!({ "error": self.to_string(), "exit_code": self.code });
        if let (Some(object), Some(Value::Object(details))) =
            (object.as_object_mut(), self.details.as_deref())
        {
            object.extend(details.clone());
        }
        object
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a library wrote.
        f.write_str(&self.message.replace('\n', " "))
    }
}

/// An operating system's error without Rust's `(os error 13)`.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NotFound(_) | StoreError::NotAStore(_) => Code::NoKeyStore,
            StoreError::AlreadyExists(_) => Code::NameTaken,
            StoreError::WrongSecret => Code::WrongSecret,
            StoreError::Locked => Code::KeyState,
            StoreError::InUse { .. } => Code::StoreInUse,
            StoreError::UnknownVersion { .. } | StoreError::Damaged(_) => Code::VolumeFormat,
            StoreError::NoSpace => Code::NoSpace,
            StoreError::Invalid(_) => Code::Usage,
            StoreError::NotBackedUp { .. } => Code::NotBackedUp,
            StoreError::BackupExists(_) => Code::NameTaken,
            StoreError::NotABackup(_)
            | StoreError::BackupVersion { .. }
            | StoreError::BackupDamaged { .. }
            | StoreError::BackupBehind { .. } => Code::BadBackup,
            StoreError::WouldReplace { lost, .. } if lost.is_empty() => Code::NameTaken,
            StoreError::WouldReplace { .. } => Code::WouldLose,
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => Code::ReadOnly,
                io::ErrorKind::PermissionDenied => Code::Permission,
                _ => Code::Unexpected,
            },
        };
        Self::new(code, error.to_string())
    }
}

impl From<KmsError> for CliError {
    fn from(error: KmsError) -> Self {
        if let Some(reason) = error.reason() {
            return Self::of_store(&error, reason);
        }
        if error.kind() == ErrorKind::Unwritten {
            return Self::unwritten(&error);
        }
        let code = match error.kind() {
            ErrorKind::NotFound | ErrorKind::CustomKeyStoreNotFound | ErrorKind::XksKeyNotFound => {
                Code::NoSuchKey
            }
            ErrorKind::Disabled
            | ErrorKind::InvalidState
            | ErrorKind::CustomKeyStoreInvalidState
            | ErrorKind::CustomKeyStoreHasKeys => Code::KeyState,
            ErrorKind::AlreadyExists
            | ErrorKind::CustomKeyStoreNameInUse
            | ErrorKind::XksKeyAlreadyInUse
            | ErrorKind::XksProxyUriInUse => Code::NameTaken,
            ErrorKind::IncorrectKey => Code::ForeignKey,
            ErrorKind::AccessDenied => Code::Permission,
            ErrorKind::DependencyTimeout
            | ErrorKind::KeyUnavailable
            | ErrorKind::XksProxyUriUnreachable
            | ErrorKind::XksProxyIncorrectCredential
            | ErrorKind::XksProxyInvalidConfiguration
            | ErrorKind::XksProxyInvalidResponse => Code::StoreInUse,
            ErrorKind::Internal => Code::Unexpected,
            _ => Code::Usage,
        };
        // The service's messages are sentences; what to do next follows on the same line.
        Self::new(code, format!("{}; {}", error.message().trim_end_matches('.'), error.hint()))
    }
}

impl CliError {
    /// A key that stays as it is, for the sake of files.
    fn unwritten(error: &KmsError) -> Self {
        let files = error.mounts().iter().flat_map(|mount| &mount.unwritten);
        let files: Vec<String> = files.map(ToString::to_string).collect();
        let message = format!(
            "{}: {}; make space or repair the disk, then retry, or lose these changes with --force",
            error.message(),
            files.join(", ")
        );
        Self::new(Code::Unwritten, message).with(json!({ "Mounts": error.mounts() }))
    }

    /// The store's own messages say what to do next.
    fn of_store(error: &KmsError, reason: Reason) -> Self {
        let code = match error.kind() {
            ErrorKind::AlreadyExists => Code::NameTaken,
            ErrorKind::Validation => Code::Usage,
            _ => code_of(reason),
        };
        Self::new(code, error.message())
    }
}

fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::NoSpace => Code::NoSpace,
        Reason::ReadOnly => Code::ReadOnly,
        Reason::Permission => Code::Permission,
        Reason::Damaged => Code::VolumeFormat,
        Reason::NotBackedUp => Code::NotBackedUp,
        Reason::BadBackup => Code::BadBackup,
        Reason::WrongSecret => Code::WrongSecret,
        Reason::Locked => Code::KeyState,
        Reason::Audit | Reason::Store => Code::Unexpected,
    }
}

impl From<ProviderError> for CliError {
    fn from(error: ProviderError) -> Self {
        let code = match &error {
            ProviderError::NotFound(_) => Code::NoSuchKey,
            ProviderError::Disabled(_)
            | ProviderError::PendingDeletion(_)
            | ProviderError::PendingImport(_) => Code::KeyState,
            ProviderError::AccessDenied(_) => Code::Permission,
            ProviderError::Unavailable(_) | ProviderError::WouldWait => Code::StoreInUse,
            ProviderError::InvalidCiphertext(_) => Code::VolumeFormat,
            ProviderError::Other(failure) => failure.reason().map_or(Code::Unexpected, code_of),
        };
        Self::new(code, error.to_string())
    }
}

impl From<VolumeError> for CliError {
    fn from(error: VolumeError) -> Self {
        let (code, next) = match &error {
            VolumeError::NotAVolume(_) => {
                (Code::NotAVolume, "check the path, or make it one with 'kmsfs init'")
            }
            VolumeError::NotEmpty(_) => (Code::NotEmpty, "choose an empty or a new directory"),
            VolumeError::AlreadyAVolume(_) => {
                (Code::NotEmpty, "mount it with 'kmsfs mount', or choose another directory")
            }
            VolumeError::Format(_, FormatError::UnknownVersion(_) | FormatError::UnknownFeatures(_)) => {
                (Code::VolumeFormat, "use the release of kmsfs that made it, or a newer one")
            }
            VolumeError::Format(..) => (Code::VolumeFormat, "restore kmsfs.volume from a backup"),
            VolumeError::InUse { .. } => {
                (Code::VolumeInUse, "unmount it there first, or mount it read-only in both places")
            }
            VolumeError::ReadOnly(_) => {
                (Code::ReadOnly, "mount it with '-o ro', or make the directory writable")
            }
            VolumeError::NoSpace(_) => (Code::NoSpace, "free some space, then retry"),
            // Every volume is wrapped by a key of its own, which nobody can delete.
            VolumeError::Provider(ProviderError::NotFound(_)) => {
                return Self::new(
                    Code::ForeignKey,
                    "the volume's key is in another key store; name the one that it was made with: \
                     --keystore DIR",
                );
            }
            VolumeError::Provider(ProviderError::InvalidCiphertext(_)) => {
                return Self::new(
                    Code::VolumeFormat,
                    "the volume's wrapped key is damaged; restore kmsfs.volume from a backup",
                );
            }
            VolumeError::Provider(_) => return Self::provider(error),
            VolumeError::Io(path, source) => return Self::io(Path::new(path), source),
        };
        Self::new(code, format!("{error}; {next}"))
    }
}

impl CliError {
    fn provider(error: VolumeError) -> Self {
        match error {
            VolumeError::Provider(error) => error.into(),
            other => Self::new(Code::Unexpected, other.to_string()),
        }
    }
}

impl From<FsError> for CliError {
    fn from(error: FsError) -> Self {
        Self::new(Code::Unexpected, error.to_string())
    }
}
