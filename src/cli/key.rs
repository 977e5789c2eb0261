//! `key`: master keys.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::args::Global;
use super::custom_key_store;
use super::exit::{CliError, CliResult, Code};
use super::key_args::CreateKey;
use super::key_store::KeyStore;
use super::output::{Output, count, fields, table};
use crate::kms::api::{
    CreateKeyRequest, KeyLastUsage, KeyLastUsageResponse, KeyRequest, ListAliasesRequest,
    ListAliasesResponse, ListKeysRequest, ListKeysResponse, StateResponse, Tag,
};
use crate::kms::{AliasName, CutReport, KeyMetadata, KeySpec};

/// A key and its aliases: the API's own shape with one member more.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described {
    #[serde(flatten)]
    pub(super) key: KeyMetadata,
    pub(super) aliases: Vec<String>,
    #[serde(rename = "KeyLastUsage", skip_serializing_if = "Option::is_none")]
    pub(super) last_use: Option<KeyLastUsage>,
}

pub(super) fn create(global: &Global, create: &CreateKey, output: &Output) -> CliResult<()> {
    // A bad name is found out before there is a key that it was meant for.
    let alias = create.alias.as_deref().map(full_alias).transpose()?;
    let alias = alias.as_ref().map(AliasName::as_str);
    let store = KeyStore::open(global)?;
    if let Some(alias) = alias
        && store.describe(alias).is_ok()
    {
        return Err(CliError::new(Code::NameTaken, format!("{alias} exists already; choose another name")));
    }
    let custom_key_store_id =
        create.custom_key_store.as_deref().map(|named| custom_key_store::id(&store, named)).transpose()?;
    let key = store.create_key_of(&CreateKeyRequest { custom_key_store_id, ..asked_for(create)? }, alias)?;
    output.print(&key, |key| vec![key.key_id.to_string()])
}

/// The request that `create` makes.
fn asked_for(create: &CreateKey) -> CliResult<CreateKeyRequest> {
    // Only RSA leaves a choice; the service says so.
    let spec: Option<KeySpec> = create.spec.parse().ok();
    let only = spec.map(KeySpec::usages).filter(|usages| usages.len() == 1);
    let usage = create.usage.clone().or_else(|| only.map(|usages| usages[0].name().to_owned()));
    let policy = match &create.policy {
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| CliError::io(file, &error))?),
        None => None,
    };
    let tag = |(key, value): &(String, String)| Tag { tag_key: key.clone(), tag_value: value.clone() };
    Ok(CreateKeyRequest {
        description: create.description.clone(),
        key_spec: Some(create.spec.clone()),
        key_usage: usage,
        origin: Some(create.origin.clone()),
        xks_key_id: create.xks_key_id.clone(),
        policy,
        tags: create.tags.iter().map(tag).collect(),
        ..CreateKeyRequest::default()
    })
}

pub(super) fn list(global: &Global, output: &Output) -> CliResult<()> {
    let keys = all(&KeyStore::open(global)?)?;
    output.print(&keys, |keys| {
        let row = |k: &Described| {
            vec![
                k.key.key_id.to_string(),
                k.key.key_state.to_string(),
                k.aliases.join(" "),
                k.key.description.clone(),
            ]
        };
        table(&["KEY ID", "STATE", "ALIASES", "DESCRIPTION"], &keys.iter().map(row).collect::<Vec<_>>())
    })
}

/// All master keys but internal ones, with their aliases.
pub(super) fn all(store: &KeyStore) -> CliResult<Vec<Described>> {
    let mut aliases = aliases(store)?;
    let mut keys = Vec::new();
    let mut request = ListKeysRequest::default();
    loop {
        let page: ListKeysResponse = store.call("ListKeys", &request)?;
        for entry in &page.keys {
            let key = store.describe(&entry.key_id.to_string())?;
            let aliases = aliases.remove(&key.key_id.to_string()).unwrap_or_default();
            keys.push(Described { key, aliases, last_use: None });
        }
        if page.next_marker.is_none() {
            return Ok(keys);
        }
        request.marker = page.next_marker;
    }
}

pub(super) fn describe(global: &Global, key: &str, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let key = store.describe(key)?;
    let aliases = aliases(&store)?.remove(&key.key_id.to_string()).unwrap_or_default();
    let last: KeyLastUsageResponse =
        store.call("GetKeyLastUsage", &KeyRequest { key_id: key.key_id.to_string() })?;
    let last_use = last.key_last_usage;
    output.print(&Described { key, aliases, last_use: Some(last_use) }, |d| {
        let mut lines = vec![
            ("key id", d.key.key_id.to_string()),
            ("arn", d.key.arn.clone()),
            ("state", d.key.key_state.to_string()),
            ("spec", format!("{} for {}", d.key.key_spec, d.key.key_usage)),
            ("origin", d.key.origin.to_string()),
            ("aliases", d.aliases.join(" ")),
            ("description", d.key.description.clone()),
            ("created", d.key.creation_date.to_string()),
            ("version", d.key.current_key_material_version.to_string()),
        ];
        if let (Some(store), Some(key)) = (&d.key.custom_key_store_id, &d.key.xks_key_configuration) {
            lines.push(("external key", format!("{} in {store}", key.id)));
        }
        if let Some((operation, at)) =
            d.last_use.as_ref().and_then(|last| Some((last.operation.as_ref()?, last.timestamp?)))
        {
            lines.push(("last use", format!("{operation}, {at}")));
        }
        if let Some(date) = &d.key.valid_to {
            lines.push(("material expires", date.to_string()));
        }
        if let Some(date) = &d.key.deletion_date {
            lines.push(("to be deleted", date.to_string()));
        }
        fields(&lines)
    })
}

pub(super) fn enable(global: &Global, key: &str, output: &Output) -> CliResult<()> {
    change(global, key, "EnableKey", "enabled", output)
}

pub(super) fn disable(global: &Global, key: &str, output: &Output) -> CliResult<()> {
    change(global, key, "DisableKey", "disabled", output)
}

pub(super) fn rotate(global: &Global, key: &str, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let id = store.describe(key)?.key_id.to_string();
    store.call::<Value>("RotateKeyOnDemand", &KeyRequest { key_id: id.clone() })?;
    let key = store.describe(&id)?;
    output.print(&key, |key| {
        vec![format!("rotated {}: new files use version {}", key.key_id, key.current_key_material_version)]
    })
}

/// Changes a key's state and says what that cut off.
fn change(global: &Global, key: &str, operation: &str, done: &str, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let id = store.describe(key)?.key_id.to_string();
    let response: StateResponse = store.call(operation, &KeyRequest { key_id: id.clone() })?;
    let cut = report_cuts(&response.mounts, output);
    output.print(&response, |_| {
        let mut lines = vec![format!("{done} {id}")];
        lines.extend(cut);
        lines
    })
}

/// Warns of what a revocation could not do, and answers what it cut off.
pub(super) fn report_cuts(mounts: &[CutReport], output: &Output) -> Vec<String> {
    for mount in mounts {
        if mount.unreachable {
            output.warn(&format!(
                "the mount at {} did not answer: its files may still be readable; unmount it",
                mount.mount
            ));
        }
        for unwritten in &mount.unwritten {
            output.warn(&format!(
                "{}: changes to {} could not be written in time",
                mount.mount, unwritten.file
            ));
        }
    }
    let cut = mounts.iter().filter(|mount| mount.files > 0).map(|mount| {
        let (files, handles) = (count(mount.files, "open file"), count(mount.handles, "handle"));
        format!("cut off at {}: {files}, {handles}", mount.mount)
    });
    cut.collect()
}

/// Aliases by key id.
fn aliases(store: &KeyStore) -> CliResult<HashMap<String, Vec<String>>> {
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    let mut request = ListAliasesRequest::default();
    loop {
        let page: ListAliasesResponse = store.call("ListAliases", &request)?;
        for alias in page.aliases {
            found.entry(alias.target_key_id.to_string()).or_default().push(alias.alias_name);
        }
        if page.next_marker.is_none() {
            return Ok(found);
        }
        request.marker = page.next_marker;
    }
}

/// `alias/NAME`, whichever way it was typed.
fn full_alias(name: &str) -> CliResult<AliasName> {
    let full = if name.starts_with("alias/") { name.to_owned() } else { format!("alias/{name}") };
    let alias: AliasName = full.parse()?;
    if alias.is_reserved() {
        return Err(CliError::new(
            Code::Usage,
            format!("{alias}: names under alias/aws/ are reserved; choose another"),
        ));
    }
    Ok(alias)
}
