//! `key retire-version`: the end of one version of a master key.

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::impact;
use super::key_args::RetireVersion;
use super::key_store::KeyStore;
use super::output::{Output, count};
use crate::kms::api::{KeyImpactResponse, RetireKeyVersionRequest, RetireKeyVersionResponse};

/// What nobody can count.
const NOT_COUNTED: &str = "what copies, snapshots and backups of volumes still hold under it, what 'kmsfs fsck' has put aside, \
                           and ciphertexts of Encrypt";

pub(super) fn retire(global: &Global, asked: &RetireVersion, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let key = store.describe(&asked.key)?;
    if asked.key_version == key.current_key_material_version {
        return Err(CliError::new(
            Code::Usage,
            format!(
                "version {} of {} is its newest; 'kmsfs key rotate' and 'kmsfs rewrap' first",
                asked.key_version, key.arn
            ),
        ));
    }
    let found = impact::ask(&store, &key.arn)?;
    let files = files_under(&found, asked);
    output.note(&format!(
        "Version {} of {} will be destroyed for ever. Not counted, and unreadable afterwards: {NOT_COUNTED}.",
        asked.key_version, key.key_id
    ));
    for id in &asked.leave_out {
        output.note(&format!(
            "Left out: volume {id}. Whatever it has under version {} is lost.",
            asked.key_version
        ));
    }
    if files > 0 {
        return Err(CliError::new(
            Code::StillUsed,
            format!(
                "{} under version {} of {}; 'kmsfs rewrap' them first, 'kmsfs key impact' says where they are",
                count(files, "file"),
                asked.key_version,
                key.arn
            ),
        ));
    }
    drop(store);
    confirm(asked, output)?;
    let request = RetireKeyVersionRequest {
        key_id: key.key_id.to_string(),
        key_version: asked.key_version,
        leave_out: asked.leave_out.clone(),
    };
    let done: RetireKeyVersionResponse = KeyStore::open(global)?.look_after("RetireKeyVersion", &request)?;
    output.print(&done, |done| {
        vec![format!(
            "retired version {} of {}; {} had nothing under it",
            done.key_version,
            key.key_id,
            count(done.volumes, "volume")
        )]
    })
}

/// Files under the version in volumes that are not left out.
fn files_under(found: &KeyImpactResponse, asked: &RetireVersion) -> u64 {
    let volumes = found.volumes.iter().filter(|volume| !asked.leave_out.contains(&volume.volume_id));
    let versions = volumes.flat_map(|volume| &volume.versions);
    versions.filter(|version| version.key_version == asked.key_version).map(|version| version.files).sum()
}

fn confirm(asked: &RetireVersion, output: &Output) -> CliResult<()> {
    if asked.yes {
        return Ok(());
    }
    if !output.can_ask() {
        let message = "it was not confirmed, so nothing was changed; add --yes to do it";
        return Err(CliError::new(Code::NotConfirmed, message));
    }
    if output.ask("Type yes to destroy it: ")?.trim() == "yes" {
        return Ok(());
    }
    Err(CliError::new(
        Code::NotConfirmed,
        "it was not confirmed, so nothing was changed; run it again to do it",
    ))
}
