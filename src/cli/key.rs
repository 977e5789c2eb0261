//! `key`: master keys.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::args::Global;
use super::consequences::{Consequences, Taken, Taking, confirmed};
use super::exit::{CliError, CliResult, Code};
use super::key_args::{Confirmation, CreateKey};
use super::key_store::KeyStore;
use super::output::{Output, count, fields, table};
use crate::kms::api::{
    CreateKeyRequest, KeyLastUsage, KeyLastUsageResponse, KeyRequest, ListAliasesRequest,
    ListAliasesResponse, ListKeysRequest, ListKeysResponse, ScheduleKeyDeletionRequest, StateResponse, Tag,
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
    let key = store.create_key_of(&asked_for(create)?, alias)?;
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
    let id = key.key_id.to_string();
    let aliases = aliases_of(&store, &id)?;
    let last_use = last_use_of(&store, &id)?;
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
    let store = KeyStore::open(global)?;
    let id = store.describe(key)?.key_id.to_string();
    let response: StateResponse = store.call("EnableKey", &KeyRequest { key_id: id.clone() })?;
    report(response, None, &format!("enabled {id}"), output)
}

pub(super) fn disable(
    global: &Global,
    key: &str,
    confirmation: &Confirmation,
    output: &Output,
) -> CliResult<()> {
    let (store, key, consequences) = confirmed(global, key, Taking::Disable, confirmation, output)?;
    let request = KeyRequest { key_id: key.key_id.to_string() };
    let response: StateResponse = store.call("DisableKey", &request)?;
    report(response, consequences, &format!("disabled {}", key.key_id), output)
}

pub(super) fn schedule_deletion(
    global: &Global,
    key: &str,
    window_days: u32,
    confirmation: &Confirmation,
    output: &Output,
) -> CliResult<()> {
    let (store, key, consequences) =
        confirmed(global, key, Taking::Delete { window_days }, confirmation, output)?;
    let request = ScheduleKeyDeletionRequest {
        key_id: key.key_id.to_string(),
        pending_window_in_days: Some(window_days),
    };
    let response: StateResponse = store.call("ScheduleKeyDeletion", &request)?;
    let date = response.deletion_date.map(|date| date.to_string()).unwrap_or_default();
    let done =
        format!("{} will be deleted at {date}; until then 'kmsfs key cancel-deletion' keeps it", key.key_id);
    report(response, consequences, &done, output)
}

pub(super) fn cancel_deletion(global: &Global, key: &str, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let id = store.describe(key)?.key_id.to_string();
    let response: StateResponse = store.call("CancelKeyDeletion", &KeyRequest { key_id: id.clone() })?;
    let done = format!("{id} will not be deleted; it is now {}", response.key_state);
    report(response, None, &done, output)
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

/// Says what was done to a key's state, and what that cut off.
fn report(
    response: StateResponse,
    consequences: Option<Consequences>,
    done: &str,
    output: &Output,
) -> CliResult<()> {
    let cut = report_cuts(&response.mounts, output);
    output.print(&Taken { response: &response, consequences }, |_| {
        let mut lines = vec![done.to_owned()];
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
    for alias in list_aliases(store, None)?.aliases {
        found.entry(alias.target_key_id.to_string()).or_default().push(alias.alias_name);
    }
    Ok(found)
}

/// The aliases of a key, which is named by its id or ARN.
pub(super) fn aliases_of(store: &KeyStore, key_id: &str) -> CliResult<Vec<String>> {
    let listed = list_aliases(store, Some(key_id.to_owned()))?;
    Ok(listed.aliases.into_iter().map(|alias| alias.alias_name).collect())
}

/// All pages of the listing of aliases, those of one key or all.
pub(super) fn list_aliases(store: &KeyStore, key_id: Option<String>) -> CliResult<ListAliasesResponse> {
    let mut request = ListAliasesRequest { key_id, limit: Some(100), marker: None };
    let mut all = ListAliasesResponse::default();
    loop {
        let page: ListAliasesResponse = store.call("ListAliases", &request)?;
        all.aliases.extend(page.aliases);
        if page.next_marker.is_none() {
            return Ok(all);
        }
        request.marker = page.next_marker;
    }
}

/// The last use of a key, which is named by its id or ARN.
pub(super) fn last_use_of(store: &KeyStore, key_id: &str) -> CliResult<KeyLastUsage> {
    let request = KeyRequest { key_id: key_id.to_owned() };
    let last: KeyLastUsageResponse = store.call("GetKeyLastUsage", &request)?;
    Ok(last.key_last_usage)
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
