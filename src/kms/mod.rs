//! The key service: master keys with the operations, states and errors of AWS KMS, kept in one
//! sealed file.
//!
//! [`Service`] is the one owner of key material. Whoever wants something of a key calls it, in
//! process by its methods or from elsewhere by [`wire`]; every call names its [`Caller`] and
//! passes one choke point. The service knows nothing of files: a mount registers a [`KeyWatcher`]
//! and is told when a key is revoked.

pub mod api;
pub mod audit;
mod blob;
mod context;
mod custom_store;
mod encoding;
mod error;
mod id;
pub mod material;
mod named;
pub mod policy;
mod receipt;
mod schedule;
mod service;
pub mod socket;
mod spec;
mod state;
mod store;
pub mod store_api;
mod watch;
pub mod wire;

pub use api::KeyMetadata;
pub use blob::{Blob, BlobHead, DATA_KEY_BLOB_LEN, MAX_BLOB, NotABlob, OVERHEAD};
pub use context::EncryptionContext;
pub use custom_store::{ConnectionErrorCode, ConnectionState};
pub use error::{ErrorKind, KmsError, Reason};
pub use id::{AliasName, Arn, KeyId, KeyRef, MAX_ALIAS, NotAKeyId, Realm, Resource, StoreId};
pub use named::UnknownName;
pub use receipt::{
    Copies, DeletedVersion, Destroyed, Loss, MAX_RECEIPT, NotAReceipt, Receipt, ReceiptKey, Scheduled,
    Scrubbed, SignedReceipt, VolumeLoss,
};
pub use schedule::Costs;
pub use service::{
    AccessKey, Caller, DataKey, FileAccess, MAX_PATH, OnBehalf, Remote, Service, UnwrappedDataKey,
};
pub use spec::{KeySpec, KeyUsage, Origin};
pub use state::{KeyManager, KeyState, Operation, check as check_state};
pub use store::{
    Disk, MIN_KEY_FILE, NotARecoveryKey, Restored, SlotInfo, SlotKind, StoreError, StoreOptions, SystemDisk,
    UnlockSecret, new_recovery_key, open_key, parse_recovery_key, restore, seal_key, store_exists,
};
pub use watch::{
    CutReport, KeyWatcher, MountStatus, OpenHandles, Unwritten, VolumeFiles, WatchGuard, WrappedFiles,
};
