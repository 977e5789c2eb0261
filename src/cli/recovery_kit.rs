//! `store recovery-kit`: what a person needs to get at the data later, for paper.

use std::collections::HashMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::key_show;
use super::key_store::KeyStore;
use super::output::{Output, fields, table};
use super::secret::{Purpose, secret};
use super::store::{add_slot, kept_backup, open_with};
use super::store_args::RecoveryKit;
use crate::kms::api::StatusResponse;
use crate::kms::store_api::StoreInfo;
use crate::kms::{UnlockSecret, new_recovery_key};
use crate::mount;

/// How a volume's key is described: this and the volume's id.
const VOLUME: &str = "kmsfs volume ";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kit {
    made: String,
    program: String,
    machine: String,
    #[serde(flatten)]
    store: StoreInfo,
    all_keys: Vec<key_show::Listed>,
    volumes: Vec<Volume>,
    /// The new recovery key, in its lines. On its way to the terminal, so no more secret than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_key: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    volume_id: String,
    key_id: String,
    /// Where its ciphertext is, if it is mounted now.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<PathBuf>,
}

pub(super) fn print(global: &Global, arguments: &RecoveryKit, output: &Output) -> CliResult<()> {
    let (store, recovery_key) = if arguments.with_recovery_key {
        let current = secret(global, Purpose::Unlock)?;
        let store = open_with(global, &current)?;
        let (key, text) = new_recovery_key().map_err(|e| CliError::new(Code::Unexpected, e.to_string()))?;
        // Durable before it is printed: a key on paper that opens nothing would be worse than none.
        add_slot(&store, &current, &UnlockSecret::RecoveryKey(key), false)?;
        (store, Some(text.lines().map(str::to_owned).collect()))
    } else {
        (KeyStore::open(global)?, None)
    };
    let info: StoreInfo = store.look_after("StoreInfo", &json!({}))?;
    let kit = Kit {
        made: Timestamp::now().to_string(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        machine: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        all_keys: key_show::all(&store)?,
        volumes: volumes(&store, &info)?,
        store: info,
        recovery_key,
    };
    output.print(&kit, lines)
}

/// The volumes whose own keys are in the store, and where those lie that are mounted.
fn volumes(store: &KeyStore, info: &StoreInfo) -> CliResult<Vec<Volume>> {
    let status: StatusResponse = store.look_after("Status", &json!({}))?;
    let table = mount::mounts().map_err(|e| CliError::io("/proc/self/mountinfo".as_ref(), &e))?;
    let source = |mountpoint: &str| {
        let entry = table.iter().rfind(|entry| entry.mountpoint.as_os_str() == mountpoint)?;
        Some(entry.source.clone())
    };
    let mut directories: HashMap<String, PathBuf> = HashMap::new();
    for mount in status.mounts {
        directories.extend(source(&mount.mountpoint).map(|source| (mount.volume, source)));
    }
    let of_volumes = info.internal_keys.iter().filter_map(|key| {
        let volume_id = key.description.strip_prefix(VOLUME)?.to_owned();
        let directory = directories.remove(&volume_id);
        Some(Volume { volume_id, key_id: key.key_id.to_string(), directory })
    });
    Ok(of_volumes.collect())
}

fn lines(kit: &Kit) -> Vec<String> {
    let mut lines = vec!["KMSFS RECOVERY KIT".to_owned(), String::new()];
    let slots: Vec<String> = kit
        .store
        .slots
        .iter()
        .map(|slot| format!("{} (slot {})", in_words(&slot.kind), slot.number))
        .collect();
    lines.extend(fields(&[
        ("made", format!("{} with kmsfs {}", kit.made, kit.program)),
        ("machine", kit.machine.clone()),
        ("key store", kit.store.directory.display().to_string()),
        ("store id", kit.store.store_id.clone()),
        ("opened by", slots.join(", ")),
        ("kept backup", kept_backup(&kit.store)),
    ]));
    if let Some(key) = &kit.recovery_key {
        lines.extend(
            ["", "RECOVERY KEY, printed this once. With it and the key store, or a backup made after"]
                .map(str::to_owned),
        );
        lines.extend(
            ["this page, anyone can read everything. Letters and the digits 2 to 7 only.", ""]
                .map(str::to_owned),
        );
        lines.extend(key.iter().map(|line| format!("    {line}")));
    }
    lines.extend(["", "MASTER KEYS", ""].map(str::to_owned));
    let row = |listed: &key_show::Listed| {
        vec![
            listed.id(),
            listed.show(|key| key.key_state.to_string()),
            listed.show(|key| key.current_key_material_version.to_string()),
            listed.aliases(),
        ]
    };
    lines.extend(table(
        &["KEY ID", "STATE", "VERSIONS", "ALIASES"],
        &kit.all_keys.iter().map(row).collect::<Vec<_>>(),
    ));
    lines.extend(["", "VOLUMES THAT NEED THIS KEY STORE", ""].map(str::to_owned));
    let row = |v: &Volume| {
        vec![
            v.volume_id.clone(),
            v.directory.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
        ]
    };
    lines.extend(table(&["VOLUME ID", "DIRECTORY"], &kit.volumes.iter().map(row).collect::<Vec<_>>()));
    lines.extend(instructions(kit));
    lines
}

fn instructions(kit: &Kit) -> Vec<String> {
    let store = kit.store.directory.display();
    let backup = match &kit.store.backup {
        Some(path) => path.display().to_string(),
        None => "BACKUP".to_owned(),
    };
    let text = format!(
        "
TO GET AT THE DATA

1. Install kmsfs {} or newer.
2. If the key store is lost or damaged, put it back from a backup:
       kmsfs --keystore {store} store restore {backup}
3. See whether it is sound, and which keys there are:
       kmsfs --keystore {store} store check
       kmsfs --keystore {store} key list
4. Mount a volume's directory of ciphertext:
       kmsfs --keystore {store} mount DIRECTORY MOUNTPOINT
It asks for the passphrase; type the recovery key there instead, all four lines as one, or give it
in a file with --recovery-key-file. For a key file use --key-file.",
        kit.program
    );
    text.lines().map(str::to_owned).collect()
}

fn in_words(kind: &str) -> &str {
    match kind {
        "Passphrase" => "a passphrase",
        "KeyFile" => "a key file",
        "RecoveryKey" => "a recovery key",
        other => other,
    }
}
