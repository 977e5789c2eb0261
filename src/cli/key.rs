//! `key`: making master keys and changing their state.

use serde_json::Value;

use super::args::Global;
use super::consequences::{Consequences, Taken, Taking, confirmed};
use super::custom_key_store;
use super::exit::{CliError, CliResult, Code};
use super::key_args::{Confirmation, CreateKey};
use super::key_store::KeyStore;
use super::output::{Output, count};
use crate::kms::api::{
    CreateKeyRequest, DisableKeyRequest, KeyLastUsage, KeyLastUsageResponse, KeyRequest, ListAliasesRequest,
    ListAliasesResponse, ScheduleKeyDeletionRequest, StateResponse, Tag, UpdateKeyDescriptionRequest,
};
use crate::kms::{AliasName, CutReport, KeySpec};

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
        bypass_policy_lockout_safety_check: create.bypass_lockout_check,
        tags: create.tags.iter().map(tag).collect(),
        ..CreateKeyRequest::default()
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
    let request =
        DisableKeyRequest { key_id: key.key_id.to_string(), stop_if_unwritten: !confirmation.force };
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
        stop_if_unwritten: !confirmation.force,
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

pub(super) fn update_description(
    global: &Global,
    key: &str,
    description: &str,
    output: &Output,
) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let request =
        UpdateKeyDescriptionRequest { key_id: store.key_id(key)?, description: description.to_owned() };
    let response: Value = store.call("UpdateKeyDescription", &request)?;
    output.print(&response, |_| vec![format!("{key} has a new description")])
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
            output.warn(&unwritten.to_string());
        }
    }
    let cut = mounts.iter().filter(|mount| mount.files > 0).map(|mount| {
        let (files, handles) = (count(mount.files, "open file"), count(mount.handles, "handle"));
        format!("cut off at {}: {files}, {handles}", mount.mount)
    });
    cut.collect()
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
pub(super) fn full_alias(name: &str) -> CliResult<AliasName> {
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
