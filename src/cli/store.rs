//! `store`: looking after the key store.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::key_store::{KeyStore, dir};
use super::output::{Output, count, fields};
use super::receipt;
use super::recovery_kit;
use super::secret::{Purpose, new_secret, secret};
use super::store_args::{Backup, Check, Passphrase, Restore, StoreCommand};
use crate::kms::store_api::{
    AddUnlockSlotRequest, AddUnlockSlotResponse, BackUpStoreRequest, BackUpStoreResponse, CheckStoreRequest,
    CheckStoreResponse, KeepBackupRequest, RemoveUnlockSlotRequest, SecretMessage, StoreInfo,
};
use crate::kms::{SystemDisk, UnlockSecret, restore};

pub(super) fn run(global: &Global, command: &StoreCommand, output: &Output) -> CliResult<()> {
    match command {
        StoreCommand::Info => info(global, output),
        StoreCommand::PublicKey { output: file } => receipt::public_key(global, file.as_deref(), output),
        StoreCommand::Check(arguments) => check(global, arguments, output),
        StoreCommand::Backup(arguments) => backup(global, arguments, output),
        StoreCommand::Restore(arguments) => put_back(global, arguments, output),
        StoreCommand::RecoveryKit(arguments) => recovery_kit::print(global, arguments, output),
        StoreCommand::Passphrase(arguments) => passphrase(global, arguments, output),
    }
}

fn info(global: &Global, output: &Output) -> CliResult<()> {
    let info: StoreInfo = KeyStore::open(global)?.look_after("StoreInfo", &json!({}))?;
    output.print(&info, |info| {
        let slots: Vec<String> =
            info.slots.iter().map(|slot| format!("{} {}", slot.number, slot.kind)).collect();
        fields(&[
            ("store id", info.store_id.clone()),
            ("directory", info.directory.display().to_string()),
            ("region", info.region.clone()),
            ("account", info.account.clone()),
            ("keys", format!("{} and {} of volumes", info.keys, info.internal_keys.len())),
            ("key versions", info.versions.to_string()),
            ("opened by", slots.join(", ")),
            ("kept backup", kept_backup(info)),
        ])
    })
}

/// The backup that is kept, in words.
pub(super) fn kept_backup(info: &StoreInfo) -> String {
    match (&info.backup, &info.backup_behind) {
        (None, _) => "none".to_owned(),
        (Some(path), None) => path.display().to_string(),
        (Some(path), Some(why)) => format!("{}, which is behind: {why}", path.display()),
    }
}

fn check(global: &Global, arguments: &Check, output: &Output) -> CliResult<()> {
    let backup = arguments.backup.as_deref().map(absolute).transpose()?;
    let store = KeyStore::open(global)?;
    let checked: CheckStoreResponse = store.look_after("CheckStore", &CheckStoreRequest { backup })?;
    output.print(&checked, |checked| {
        let mut lines = vec![format!(
            "the key store is sound: {}, {}, {}, {}",
            count(checked.keys, "key"),
            count(checked.versions, "key version"),
            if checked.aliases == 1 { "1 alias".to_owned() } else { format!("{} aliases", checked.aliases) },
            count(checked.slots, "unlock slot"),
        )];
        lines.extend(
            checked
                .backup
                .iter()
                .map(|path| format!("so is the backup {}, and it lacks nothing", path.display())),
        );
        lines
    })
}

fn backup(global: &Global, arguments: &Backup, output: &Output) -> CliResult<()> {
    let path = arguments.file.as_deref().map(absolute).transpose()?;
    let store = KeyStore::open(global)?;
    let Some(path) = path.filter(|_| !arguments.no_auto) else {
        store.look_after::<Value>("KeepBackup", &KeepBackupRequest { path: None, force: false })?;
        return output.print(&json!({ "Backup": null }), |_| vec!["no backup is kept any more".to_owned()]);
    };
    if path.parent() == Some(&dir(global)?) {
        output.warn("this backup lies beside the key store; keep one on another disk");
    }
    let force = arguments.force;
    if arguments.auto {
        store.look_after::<Value>("KeepBackup", &KeepBackupRequest { path: Some(path.clone()), force })?;
        return output.print(&json!({ "Backup": path }), |_| {
            vec![format!("{} is a backup of the key store and is kept up to date", path.display())]
        });
    }
    let written: BackUpStoreResponse =
        store.look_after("BackUpStore", &BackUpStoreRequest { path, force })?;
    check_seen(&written)?;
    output.print(&written, |written| {
        vec![format!(
            "{}: {} with {}",
            written.path.display(),
            count(written.keys, "key"),
            count(written.versions, "version")
        )]
    })
}

/// The process that wrote the file may see other file systems than this one.
fn check_seen(written: &BackUpStoreResponse) -> CliResult<()> {
    let digest =
        std::fs::read(&written.path).map(|bytes| data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)));
    if digest.is_ok_and(|digest| digest == written.sha256) {
        return Ok(());
    }
    let message = format!(
        "{} is not what the process wrote that has the key store open; unmount its volumes, then retry",
        written.path.display()
    );
    Err(CliError::new(Code::BadBackup, message))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PutBack {
    store_id: String,
    directory: PathBuf,
    made: String,
    made_by: String,
    keys: u64,
    versions: u64,
    /// Where the key store is that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<PathBuf>,
    lost: Vec<String>,
}

fn put_back(global: &Global, arguments: &Restore, output: &Output) -> CliResult<()> {
    let (file, dir) = (absolute(&arguments.file)?, dir(global)?);
    let secret = secret(global, Purpose::Unlock)?;
    let restored = restore(&SystemDisk, &file, &dir, &secret, arguments.force)?;
    for lost in &restored.lost {
        output.warn(&format!("{lost} was in the key store that was replaced, and is not in the backup"));
    }
    let restored = PutBack {
        store_id: restored.store_id.to_string(),
        directory: dir,
        made: restored.created.to_string(),
        made_by: restored.program,
        keys: restored.keys,
        versions: restored.versions,
        kept: restored.kept,
        lost: restored.lost,
    };
    output.note("no backup is kept automatically: 'kmsfs store backup --auto FILE' changes that");
    output.print(&restored, |restored| {
        let mut lines = vec![
            ("store id", restored.store_id.clone()),
            ("directory", restored.directory.display().to_string()),
            ("backup of", restored.made.clone()),
            ("keys", restored.keys.to_string()),
            ("key versions", restored.versions.to_string()),
        ];
        lines.extend(restored.kept.iter().map(|kept| ("before", kept.display().to_string())));
        fields(&lines)
    })
}

fn passphrase(global: &Global, arguments: &Passphrase, output: &Output) -> CliResult<()> {
    let current = secret(global, Purpose::Unlock)?;
    if let Some(number) = arguments.remove {
        let request = RemoveUnlockSlotRequest { current: SecretMessage::from(&current), number };
        open_with(global, &current)?.look_after::<Value>("RemoveUnlockSlot", &request)?;
        return output.print(&json!({ "Removed": number }), |_| {
            vec![format!("unlock slot {number} is removed; backups made before still have it")]
        });
    }
    let new = new_secret(arguments.new_passphrase_file.as_deref(), arguments.new_key_file.as_deref())?;
    let added = add_slot(&open_with(global, &current)?, &current, &new, !arguments.add)?;
    output.print(&added, |added| match added.removed {
        Some(old) => vec![format!("unlock slot {} takes the place of {old}", added.number)],
        None => vec![format!("unlock slot {} is added", added.number)],
    })
}

/// The key store, opened with a secret that is needed anyway.
pub(super) fn open_with(global: &Global, secret: &UnlockSecret) -> CliResult<KeyStore> {
    let dir = dir(global)?;
    if super::key_store::is_served(&dir) {
        return KeyStore::open(global);
    }
    KeyStore::unlock(&dir, secret, global.audit.into())
}

pub(super) fn add_slot(
    store: &KeyStore,
    current: &UnlockSecret,
    new: &UnlockSecret,
    replace_current: bool,
) -> CliResult<AddUnlockSlotResponse> {
    let (current, new) = (SecretMessage::from(current), SecretMessage::from(new));
    store.look_after("AddUnlockSlot", &AddUnlockSlotRequest { current, new, replace_current })
}

fn absolute(path: &Path) -> CliResult<PathBuf> {
    std::path::absolute(path).map_err(|e| CliError::io(path, &e))
}
