//! `key list` and `key describe`: what there is to know of master keys, and may be known.

use std::collections::HashMap;

use serde::Serialize;

use super::args::Global;
use super::consequences::{in_words, known, or_none};
use super::exit::{CliResult, Code};
use super::key::{aliases_of, last_use_of, list_aliases};
use super::key_store::KeyStore;
use super::output::{Output, fields, table};
use crate::kms::api::{
    KeyLastUsage, KeyListEntry, KeyRequest, ListKeysRequest, ListKeysResponse, ListResourceTagsRequest,
    ListResourceTagsResponse, RotationStatusResponse, Tag,
};
use crate::kms::{KeyMetadata, KeySpec};

/// One key of a listing: the API's own shape with one member more.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    #[serde(flatten)]
    key: Seen,
    aliases: Vec<String>,
}

/// What may be seen of a key. Its policy can keep it even from those who list the keys.
#[derive(Serialize)]
#[serde(untagged)]
enum Seen {
    All(Box<KeyMetadata>),
    Name(KeyListEntry),
}

impl Listed {
    pub(super) fn id(&self) -> String {
        match &self.key {
            Seen::All(key) => key.key_id.to_string(),
            Seen::Name(entry) => entry.key_id.to_string(),
        }
    }

    pub(super) fn aliases(&self) -> String {
        self.aliases.join(" ")
    }

    /// What `of` makes of the key, if all of it may be seen.
    pub(super) fn show(&self, of: impl Fn(&KeyMetadata) -> String) -> String {
        match &self.key {
            Seen::All(key) => of(key),
            Seen::Name(_) => "?".to_owned(),
        }
    }
}

pub(super) fn list(global: &Global, output: &Output) -> CliResult<()> {
    let keys = all(&KeyStore::open(global)?)?;
    output.print(&keys, |keys| {
        let row = |listed: &Listed| {
            vec![
                listed.id(),
                listed.show(|key| key.key_state.to_string()),
                listed.show(|key| key.key_spec.to_string()),
                listed.aliases(),
                listed.show(|key| key.description.clone()),
            ]
        };
        let header = ["KEY ID", "STATE", "SPEC", "ALIASES", "DESCRIPTION"];
        table(&header, &keys.iter().map(row).collect::<Vec<_>>())
    })
}

/// All master keys but internal ones, with their aliases.
pub(super) fn all(store: &KeyStore) -> CliResult<Vec<Listed>> {
    let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
    for alias in list_aliases(store, None)?.aliases {
        aliases.entry(alias.target_key_id.to_string()).or_default().push(alias.alias_name);
    }
    let mut keys = Vec::new();
    let mut request = ListKeysRequest::default();
    loop {
        let page: ListKeysResponse = store.call("ListKeys", &request)?;
        for entry in page.keys {
            let id = entry.key_id.to_string();
            let key = match store.describe(&id) {
                Ok(key) => Seen::All(Box::new(key)),
                Err(error) if error.is(Code::Permission) => Seen::Name(entry),
                // Deleted since.
                Err(error) if error.is(Code::NoSuchKey) => continue,
                Err(error) => return Err(error),
            };
            keys.push(Listed { key, aliases: aliases.remove(&id).unwrap_or_default() });
        }
        if page.next_marker.is_none() {
            return Ok(keys);
        }
        request.marker = page.next_marker;
    }
}

/// Everything about a key: the API's own shape, and what other operations answer.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    #[serde(flatten)]
    key: KeyMetadata,
    /// Absent if the caller may not know, as are the others below.
    #[serde(skip_serializing_if = "Option::is_none")]
    aliases: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<Tag>>,
    /// Of symmetric keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_rotation_status: Option<RotationStatusResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_last_usage: Option<KeyLastUsage>,
    /// What could not be found out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
}

pub(super) fn describe(global: &Global, key: &str, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let key = store.describe(key)?;
    let key_id = key.key_id.to_string();
    let mut unknown = Vec::new();
    let aliases = known(&mut unknown, "aliases", aliases_of(&store, &key_id));
    // A key has no more tags than fit into one page.
    let request = ListResourceTagsRequest { key_id: key_id.clone(), ..Default::default() };
    let tags = store.call("ListResourceTags", &request);
    let tags = known(&mut unknown, "tags", tags).map(|tags: ListResourceTagsResponse| tags.tags);
    let rotates = key.key_spec == KeySpec::SymmetricDefault;
    let rotation =
        rotates.then(|| store.call("GetKeyRotationStatus", &KeyRequest { key_id: key_id.clone() }));
    let key_rotation_status = rotation.and_then(|rotation| known(&mut unknown, "rotation", rotation));
    let key_last_usage = known(&mut unknown, "last use", last_use_of(&store, &key_id));
    let described = Described { key, aliases, tags, key_rotation_status, key_last_usage, unknown };
    output.print(&described, lines)
}

fn lines(described: &Described) -> Vec<String> {
    let key = &described.key;
    let mut lines = vec![
        ("key id", key.key_id.to_string()),
        ("arn", key.arn.clone()),
        ("state", key.key_state.to_string()),
        ("spec", format!("{} for {}", key.key_spec, key.key_usage)),
        ("origin", key.origin.to_string()),
    ];
    if let (Some(store), Some(external)) = (&key.custom_key_store_id, &key.xks_key_configuration) {
        lines.push(("external key", format!("{} in {store}", external.id)));
    }
    let algorithms = algorithms(key);
    if key.key_spec != KeySpec::SymmetricDefault {
        lines.push(("algorithms", algorithms.join(" ")));
    }
    if let Some(aliases) = &described.aliases {
        lines.push(("aliases", or_none(aliases.join(" "))));
    }
    lines.push(("description", key.description.clone()));
    if let Some(tags) = &described.tags {
        let tags: Vec<_> = tags.iter().map(|tag| format!("{}={}", tag.tag_key, tag.tag_value)).collect();
        lines.push(("tags", or_none(tags.join(" "))));
    }
    lines.push(("created", key.creation_date.to_string()));
    lines.push(("version", key.current_key_material_version.to_string()));
    if let Some(rotation) = &described.key_rotation_status {
        lines.push(("rotation", schedule(rotation)));
    }
    if let Some(last) = &described.key_last_usage {
        lines.push(("last use", in_words(last)));
    }
    if let Some(date) = &key.valid_to {
        lines.push(("material expires", date.to_string()));
    }
    if let Some(date) = &key.deletion_date {
        lines.push(("to be deleted", date.to_string()));
    }
    lines.extend(described.unknown.iter().map(|what| ("unknown", what.clone())));
    fields(&lines)
}

fn algorithms(key: &KeyMetadata) -> Vec<String> {
    let encryption = key.encryption_algorithms.iter().map(ToString::to_string);
    let signing = key.signing_algorithms.iter().map(ToString::to_string);
    encryption.chain(signing).chain(key.mac_algorithms.iter().map(ToString::to_string)).collect()
}

fn schedule(rotation: &RotationStatusResponse) -> String {
    match (rotation.key_rotation_enabled, rotation.rotation_period_in_days, rotation.next_rotation_date) {
        (false, ..) => "no".to_owned(),
        (true, Some(days), Some(next)) => format!("every {days} days, next {next}"),
        (true, ..) => "yes".to_owned(),
    }
}
