//! `key impact`: what depends on a master key, over all known volumes.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::unistd::{Uid, User};
use serde::Serialize;

use super::args::Global;
use super::exit::{CliError, CliResult};
use super::fsck::printable;
use super::key_store::KeyStore;
use super::output::{Output, count, fields, table};
use super::rewrap::Reached;
use crate::fs::Volume;
use crate::kms::api::{KeyImpactResponse, KeyRequest, VolumeImpact, VolumeState};
use crate::tools::rewrap;

/// What the key service says, and the names if they are wanted.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Impact {
    #[serde(flatten)]
    answer: KeyImpactResponse,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<Named>>,
}

/// A file under the key.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    volume_id: String,
    key_version: u32,
    path: PathBuf,
}

pub(super) fn impact(global: &Global, key: &str, paths: bool, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let answer = ask(&store, key)?;
    let paths = paths.then(|| names(global, &store, &answer, output)).transpose()?;
    output.print(&Impact { answer, paths }, |impact| {
        let mut lines = fields(&pairs(&impact.answer));
        let rows = rows(&impact.answer);
        if !rows.is_empty() {
            lines.push(String::new());
            lines.extend(table(&["VOLUME", "STATE", "VERSION", "FILES", "BYTES", "PLACE"], &rows));
        }
        for named in impact.paths.iter().flatten() {
            lines.push(format!("{:>4}  {}", named.key_version, printable(&named.path)));
        }
        lines
    })
}

/// What depends on a key, named in any way.
pub(super) fn ask(store: &KeyStore, key: &str) -> CliResult<KeyImpactResponse> {
    store.look_after("GetKeyImpact", &KeyRequest { key_id: key.to_owned() })
}

/// The sum of it, for a person.
pub(super) fn pairs(answer: &KeyImpactResponse) -> Vec<(&'static str, String)> {
    let files = format!("{}, {}", count(answer.files, "file"), count(answer.bytes, "byte"));
    let how = if answer.certain { "" } else { " that are known; there may be more" };
    let mut pairs = vec![("files", format!("{files}{how}"))];
    let mut users: Vec<(u32, u64)> = Vec::new();
    for user in answer.volumes.iter().flat_map(|volume| &volume.users) {
        match users.iter_mut().find(|(uid, _)| *uid == user.uid) {
            Some((_, handles)) => *handles += user.handles,
            None => users.push((user.uid, user.handles)),
        }
    }
    pairs.extend(
        users.into_iter().map(|(uid, n)| ("open by", format!("{}: {}", user(uid), count(n, "handle")))),
    );
    pairs.extend(answer.volumes.iter().filter_map(not_certain).map(|what| ("not known", what)));
    pairs.extend(answer.volumes.iter().filter_map(away).map(|what| ("away", what)));
    pairs
}

fn rows(answer: &KeyImpactResponse) -> Vec<Vec<String>> {
    let rows = answer.volumes.iter().flat_map(|volume| {
        let place = volume.mountpoint.as_deref().unwrap_or(&volume.path);
        volume.versions.iter().map(move |version| {
            vec![
                volume.volume_id.clone(),
                state(volume.state).to_owned(),
                version.key_version.to_string(),
                version.files.to_string(),
                version.bytes.to_string(),
                printable(place.as_ref()),
            ]
        })
    });
    rows.collect()
}

/// How a volume is known, in a word.
pub(super) fn state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Mounted => "mounted",
        VolumeState::Unmounted => "unmounted",
        VolumeState::Lost => "lost",
        VolumeState::Unseen => "unseen",
    }
}

/// Why the numbers of a volume are not all there is, if so.
fn not_certain(volume: &VolumeImpact) -> Option<String> {
    if volume.certain {
        return None;
    }
    let why = match volume.state {
        VolumeState::Mounted => "its files have not all been counted; 'kmsfs reindex' counts them".to_owned(),
        VolumeState::Unmounted => "not all of its files were counted when it was unmounted".to_owned(),
        VolumeState::Lost if volume.volume_id.is_empty() => "its mount does not answer".to_owned(),
        VolumeState::Lost => format!("in use since {} and not heard of any more", when(volume.last_seen)),
        VolumeState::Unseen => "never mounted since it was made, or since volumes are remembered".to_owned(),
    };
    Some(format!("{}: {why}", name(volume)))
}

/// What is to be said of a volume that is known and not where it was, if it is so.
fn away(volume: &VolumeImpact) -> Option<String> {
    let is_there = volume.state != VolumeState::Unmounted || Volume::exists(Path::new(&volume.path));
    (!is_there)
        .then(|| format!("{} is not there; the numbers are of {}", name(volume), when(volume.last_seen)))
}

fn name(volume: &VolumeImpact) -> String {
    let place = volume.mountpoint.as_deref().unwrap_or(&volume.path);
    match (volume.volume_id.as_str(), place) {
        ("", place) => place.to_owned(),
        (id, "") => format!("volume {id}"),
        (id, place) => format!("{} ({id})", printable(place.as_ref())),
    }
}

/// A time for people.
pub(super) fn when(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "an unknown time".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} ({uid})", user.name),
        _ => uid.to_string(),
    }
}

/// The names of the files, by a walk over each volume that has some.
fn names(
    global: &Global,
    store: &KeyStore,
    answer: &KeyImpactResponse,
    output: &Output,
) -> CliResult<Vec<Named>> {
    let mut found = Vec::new();
    for volume in answer.volumes.iter().filter(|volume| volume.files > 0 || !volume.certain) {
        let place = PathBuf::from(volume.mountpoint.as_deref().unwrap_or(&volume.path));
        if place.as_os_str().is_empty() {
            continue;
        }
        if let Err(error) = names_in(global, store, answer, volume, &place, &mut found) {
            output.warn(&format!("the names in {} are missing: {error}", name(volume)));
        }
    }
    Ok(found)
}

fn names_in(
    global: &Global,
    store: &KeyStore,
    answer: &KeyImpactResponse,
    volume: &VolumeImpact,
    place: &Path,
    found: &mut Vec<Named>,
) -> CliResult<()> {
    let reached = Reached::to_read(global, store, place)?;
    let (tree, top) = reached.parts();
    let listed = rewrap::list(tree, top, &mut |file, wrapping| {
        if let Ok(wrapping) = wrapping
            && wrapping.key_arn == answer.key_id
        {
            let (volume_id, key_version) = (volume.volume_id.clone(), wrapping.key_version);
            found.push(Named { volume_id, key_version, path: file.path.clone() });
        }
    });
    listed.map_err(|e| CliError::io(place, &e))?;
    reached.close(place)
}
