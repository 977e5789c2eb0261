//! What each refusal of the key service looks like to programs, and that whatever needs no key goes
//! on.
#![allow(clippy::unwrap_used)]

#[path = "common/unmounted.rs"]
mod unmounted;

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use kmsfs::fs::{NewMode, ROOT_INO, RenameMode, Requester};
use kmsfs::kms::{Caller, DataKey, EncryptionContext, KeyMetadata, KeyWatcher, UnwrappedDataKey};
use kmsfs::provider::{Embedded, Provider, ProviderError};
use unmounted::Unmounted;

/// A provider that can be told to refuse data keys.
struct Moody {
    provider: Embedded,
    refusal: Mutex<Option<ProviderError>>,
}

impl Moody {
    fn refuse(&self, with: Option<ProviderError>) {
        *self.refusal.lock().unwrap() = with;
    }

    fn mood(&self) -> Result<(), ProviderError> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Provider for Moody {
    fn generate_data_key(&self, key: &str, context: &EncryptionContext) -> Result<DataKey, ProviderError> {
        self.mood()?;
        self.provider.generate_data_key(key, context)
    }

    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError> {
        self.mood()?;
        self.provider.unwrap(blob, context)
    }

    fn rewrap(&self, blob: &[u8], context: &EncryptionContext, key: &str) -> Result<Vec<u8>, ProviderError> {
        self.mood()?;
        self.provider.rewrap(blob, context, key)
    }

    fn describe_key(&self, key: &str) -> Result<KeyMetadata, ProviderError> {
        self.provider.describe_key(key)
    }

    fn create_internal_key(&self, description: &str) -> Result<KeyMetadata, ProviderError> {
        self.provider.create_internal_key(description)
    }

    fn attach(&self, watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError> {
        self.provider.attach(watcher)
    }
}

#[test]
fn each_refusal_of_the_key_service_has_its_error() {
    let volume = Unmounted::new();
    let provider = Embedded::new(Arc::clone(&volume.service), Caller::current());
    let provider = Arc::new(Moody { provider, refusal: Mutex::default() });
    let mount = || {
        provider.refuse(None);
        volume.mount_with(Arc::<Moody>::clone(&provider))
    };
    let by = Requester { uid: 0, gid: 0, pid: std::process::id() };
    let (mode, name) = (NewMode { mode: 0o600, umask: 0 }, OsStr::new);

    let fs = mount();
    let (_, fh) = fs.create(by, ROOT_INO, name("file"), mode).unwrap();
    fs.write(fh, 0, b"contents", false, None).unwrap();
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);
    let said = || "as it was told".to_owned();
    let refusals = [
        (ProviderError::Disabled(said()), libc::EKEYREVOKED),
        (ProviderError::PendingDeletion(said()), libc::EKEYREVOKED),
        (ProviderError::PendingImport(said()), libc::EKEYEXPIRED),
        (ProviderError::NotFound(said()), libc::EKEYREJECTED),
        (ProviderError::AccessDenied(said()), libc::EACCES),
        (ProviderError::Unavailable(said()), libc::ENOKEY),
        (ProviderError::InvalidCiphertext(said()), libc::EIO),
        (ProviderError::Other(said().into()), libc::EIO),
    ];
    for (refusal, errno) in refusals {
        // Without a key in any cache.
        let fs = mount();
        provider.refuse(Some(refusal.clone()));
        let ino = fs.lookup(ROOT_INO, name("file")).unwrap().ino;
        assert_eq!(fs.open(ino, false).unwrap_err().errno(), errno, "{refusal:?}");
        let made = fs.create(by, ROOT_INO, name("new"), mode);
        assert_eq!(made.map(|_| ()).unwrap_err().errno(), errno, "{refusal:?}");
        assert_eq!(fs.lookup(ROOT_INO, name("new")).unwrap_err().errno(), libc::ENOENT, "nothing is left");
        assert_eq!(fs.getattr(ino).unwrap().size, 8);
        fs.rename(ROOT_INO, name("file"), ROOT_INO, name("moved"), RenameMode::NoReplace).unwrap();
        fs.link(ino, ROOT_INO, name("file")).unwrap();
        fs.unlink(ROOT_INO, name("moved")).unwrap();
        fs.mkdir(by, ROOT_INO, name("dir"), mode).unwrap();
        fs.rmdir(ROOT_INO, name("dir")).unwrap();

        provider.refuse(None);
        let fh = fs.open(ino, false).unwrap();
        let mut found = [0; 8];
        assert_eq!(fs.read(fh, 0, &mut found).unwrap(), 8, "{refusal:?} leaves no mark");
        fs.release(fh);
        fs.shut_down().unwrap();
        drop(fs);
    }
}
