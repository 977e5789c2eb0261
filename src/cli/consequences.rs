//! What becomes of things when a key is taken away: shown before it is done, and asked about.
//!
//! Whatever cannot be found out is named as unknown and stops nobody: a key may have to go just
//! because something does not answer.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::impact;
use super::key::{aliases_of, last_use_of};
use super::key_args::Confirmation;
use super::key_store::{KeyStore, Reach};
use super::output::{Output, count, fields};
use crate::kms::api::{
    GrantListEntry, KeyImpactResponse, KeyLastUsage, ListGrantsRequest, ListGrantsResponse, StatusResponse,
};
use crate::kms::{KeyManager, KeyMetadata, KeyState, Operation, Origin, check_state};

/// Grants that are fetched to be shown: one page.
const MAX_GRANTS: u32 = 100;
/// Grantees that are named to a person.
const MAX_GRANTEES: usize = 5;

/// A way to take a key away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    /// Until it is enabled.
    Disable,
    /// For ever, after a window in which it is as if disabled.
    Delete { window_days: u32 },
    /// Until the same material is imported again.
    DeleteMaterial,
}

impl Taking {
    fn operation(self) -> Operation {
        match self {
            Self::Disable => Operation::DisableKey,
            Self::Delete { .. } => Operation::ScheduleKeyDeletion,
            Self::DeleteMaterial => Operation::DeleteImportedKeyMaterial,
        }
    }

    /// Whether it is a way to take this key away, in whatever state. The service refuses it if not.
    fn is_for(self, key: &KeyMetadata) -> bool {
        let is_imported = key.origin == Origin::External;
        key.key_manager == KeyManager::Customer && (self != Self::DeleteMaterial || is_imported)
    }

    /// Whether it leaves a key in `state` as it was.
    fn is_done_in(self, state: KeyState) -> bool {
        match self {
            Self::Disable => state == KeyState::Disabled,
            Self::Delete { .. } => false,
            Self::DeleteMaterial => state == KeyState::PendingImport,
        }
    }
}

/// The key that is to go, and whoever will miss it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Consequences {
    #[serde(skip)]
    taking: Taking,
    key_metadata: KeyMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_window_in_days: Option<u32>,
    /// Absent if unknown, as are the others below.
    #[serde(skip_serializing_if = "Option::is_none")]
    aliases: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mounts: Option<Vec<MountUse>>,
    /// What depends on the key in all known volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    impact: Option<KeyImpactResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<Vec<GrantListEntry>>,
    /// Whether there are more grants than these.
    more_grants: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_last_usage: Option<KeyLastUsage>,
    /// What could not be found out, and why.
    unknown: Vec<String>,
}

/// What a mount has to do with the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MountUse {
    mountpoint: String,
    volume: String,
    /// Under the key; absent if the mount does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_files: Option<u64>,
}

/// Shows what taking a key away comes to, and has it confirmed unless it is.
/// Answers the key store, for it to be done, and the consequences. They are absent where there are
/// none: the key is in that state already, or cannot be taken away at all.
///
/// # Errors
/// [`Code::NotConfirmed`], [`Code::NotAsExpected`]; what the key's state does not allow. Nothing has changed then.
pub(super) fn confirmed(
    global: &Global,
    key: &str,
    taking: Taking,
    confirmation: &Confirmation,
    output: &Output,
) -> CliResult<(KeyStore, KeyMetadata, Option<Consequences>)> {
    let reach = Reach::new(global);
    let store = reach.open()?;
    let key = store.describe(key)?;
    if taking.is_done_in(key.key_state) || !taking.is_for(&key) {
        return Ok((store, key, None));
    }
    check_state(taking.operation(), &key.arn, key.key_state)?;
    let found = Consequences::gather(&store, key.clone(), taking);
    found.lines().iter().for_each(|line| output.note(line));
    if let Some(expected) = confirmation.expect_files {
        found.check_files(expected)?;
    }
    if confirmation.yes {
        return Ok((store, key, Some(found)));
    }
    // A person may think for long, and others need the key store meanwhile.
    drop(store);
    found.ask(output)?;
    Ok((reach.open()?, key, Some(found)))
}

impl Consequences {
    fn gather(store: &KeyStore, key: KeyMetadata, taking: Taking) -> Self {
        let id = key.key_id.to_string();
        let mut unknown = Vec::new();
        let aliases = known(&mut unknown, "aliases", aliases_of(store, &id));
        let mounts = known(&mut unknown, "mounts", mounts(store, &key.arn));
        let impact = known(&mut unknown, "files", impact::ask(store, &key.arn));
        let request =
            ListGrantsRequest { key_id: id.clone(), limit: Some(MAX_GRANTS), ..ListGrantsRequest::default() };
        let grants: Option<ListGrantsResponse> =
            known(&mut unknown, "grants", store.call("ListGrants", &request));
        let key_last_usage = known(&mut unknown, "last use", last_use_of(store, &id));
        let window_days = match taking {
            Taking::Delete { window_days } => Some(window_days),
            Taking::Disable | Taking::DeleteMaterial => None,
        };
        Self {
            taking,
            key_metadata: key,
            pending_window_in_days: window_days,
            aliases,
            mounts,
            impact,
            more_grants: grants.as_ref().is_some_and(|grants| grants.truncated),
            grants: grants.map(|grants| grants.grants),
            key_last_usage,
            unknown,
        }
    }

    /// For a person.
    fn lines(&self) -> Vec<String> {
        let key = &self.key_metadata;
        let mut pairs = vec![("key", key.key_id.to_string())];
        if let Some(aliases) = &self.aliases {
            pairs.push(("aliases", or_none(aliases.join(" "))));
        }
        if !key.description.is_empty() {
            pairs.push(("description", key.description.clone()));
        }
        pairs.push(("state", key.key_state.to_string()));
        if let Some(mounts) = &self.mounts {
            pairs.extend(mounts.iter().map(|mount| ("mount", mount.line())));
            if mounts.is_empty() {
                pairs.push(("mounts", "none".to_owned()));
            }
        }
        if let Some(impact) = &self.impact {
            pairs.extend(impact::pairs(impact));
        }
        if let Some(grants) = &self.grants {
            pairs.push(("grants", grantees(grants, self.more_grants)));
        }
        if let Some(last) = &self.key_last_usage {
            pairs.push(("last use", in_words(last)));
        }
        pairs.extend(self.unknown.iter().map(|what| ("unknown", what.clone())));
        let mut lines = vec![self.headline()];
        lines.extend(fields(&pairs).into_iter().map(|line| format!("  {line}")));
        lines
    }

    fn headline(&self) -> String {
        match self.taking {
            Taking::Disable => {
                "Disabling this key makes what it encrypts unreadable at once, open files included, until it is \
                 enabled:"
                    .to_owned()
            }
            Taking::Delete { window_days } => {
                let window = SignedDuration::from_hours(24 * i64::from(window_days));
                let date = Timestamp::now().checked_add(window).unwrap_or(Timestamp::MAX);
                format!(
                    "Deleting this key makes what it encrypts unreadable at once, open files included, and for \
                     ever after {}:",
                    date.strftime("%Y-%m-%d")
                )
            }
            Taking::DeleteMaterial => {
                "Deleting this key's material makes what it encrypts unreadable at once, open files included, \
                 until the same material is imported again:"
                    .to_owned()
            }
        }
    }

    /// Refuses unless exactly `expected` files depend on the key, as far as can be known.
    fn check_files(&self, expected: u64) -> CliResult<()> {
        let why = match &self.impact {
            Some(impact) if impact.certain && impact.files == expected => return Ok(()),
            Some(impact) if impact.certain => format!("{} depend on the key", count(impact.files, "file")),
            _ => "how many files depend on the key is not certain".to_owned(),
        };
        let next = "so nothing was changed; 'kmsfs key impact' says more";
        let error = CliError::new(Code::NotAsExpected, format!("{why}, not {expected} as expected, {next}"));
        Err(error.with(json!({ "consequences": self })))
    }

    /// Has a person at the terminal confirm it.
    fn ask(&self, output: &Output) -> CliResult<()> {
        if !output.can_ask() {
            return Err(self.refused("it was not confirmed, so nothing was changed; add --yes to do it"));
        }
        let question = match self.taking {
            Taking::Delete { .. } => "Type the key's id or alias to delete it: ",
            Taking::Disable | Taking::DeleteMaterial => "Type yes to do it: ",
        };
        let typed = output.ask(question)?;
        if self.is_confirmed_by(typed.trim()) {
            return Ok(());
        }
        Err(self.refused("it was not confirmed, so nothing was changed; run it again to do it"))
    }

    fn is_confirmed_by(&self, typed: &str) -> bool {
        match self.taking {
            Taking::Delete { .. } => {
                let mut aliases = self.aliases.iter().flatten();
                typed == self.key_metadata.key_id.to_string()
                    || typed == self.key_metadata.arn
                    || aliases.any(|alias| typed == alias || alias.strip_prefix("alias/") == Some(typed))
            }
            Taking::Disable | Taking::DeleteMaterial => typed == "yes",
        }
    }

    /// A refusal; a program gets the consequences with it.
    fn refused(&self, why: &str) -> CliError {
        CliError::new(Code::NotConfirmed, why).with(json!({ "consequences": self }))
    }
}

impl MountUse {
    fn line(&self) -> String {
        match self.open_files {
            Some(0) => format!("{}: no open file under it", self.mountpoint),
            Some(files) => format!("{}: {} under it", self.mountpoint, count(files, "open file")),
            None => format!("{}: does not answer", self.mountpoint),
        }
    }
}

/// An answer and the consequences of what it answers: the API's own shape with one member more.
#[derive(Serialize)]
pub(super) struct Taken<'a, T> {
    #[serde(flatten)]
    pub(super) response: &'a T,
    #[serde(rename = "Consequences", skip_serializing_if = "Option::is_none")]
    pub(super) consequences: Option<Consequences>,
}

/// What was found out; else it is noted why not.
pub(super) fn known<T>(unknown: &mut Vec<String>, what: &str, found: CliResult<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) if error.is(Code::Permission) => {
            unknown.push(format!("{what}: not permitted"));
            None
        }
        Err(error) => {
            unknown.push(format!("{what}: {error}"));
            None
        }
    }
}

/// What the last use of a key was, in words.
pub(super) fn in_words(last: &KeyLastUsage) -> String {
    match (&last.operation, last.timestamp) {
        (Some(operation), Some(at)) => format!("{operation}, {at}"),
        _ => "none".to_owned(),
    }
}

/// Every mount: any of them may have files under the key that nobody has open.
fn mounts(store: &KeyStore, arn: &str) -> CliResult<Vec<MountUse>> {
    let status: StatusResponse = store.look_after("Status", &Value::Null)?;
    let uses = status.mounts.into_iter().map(|mount| MountUse {
        // A mount that does not answer is known by its place alone.
        open_files: (mount.pid != 0).then(|| mount.open_files.get(arn).copied().unwrap_or(0)),
        mountpoint: mount.mountpoint,
        volume: mount.volume,
    });
    Ok(uses.collect())
}

fn grantees(grants: &[GrantListEntry], more: bool) -> String {
    let mut names: Vec<&str> =
        grants.iter().filter_map(|grant| grant.grantee_principal.rsplit(':').next()).collect();
    names.sort_unstable();
    names.dedup();
    let number = if more { format!("more than {}", grants.len()) } else { grants.len().to_string() };
    match names.len() {
        0 => "none".to_owned(),
        1..=MAX_GRANTEES => format!("{number}, to {}", names.join(", ")),
        _ => format!("{number}, to {} and others", names[..MAX_GRANTEES].join(", ")),
    }
}

/// The text, or a word for that there is none.
pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
