//! `key rotation`: schedules and versions.

use serde_json::Value;

use super::args::Global;
use super::exit::CliResult;
use super::key_args::RotationCommand;
use super::key_store::KeyStore;
use super::output::{Output, fields, table};
use crate::kms::api::{
    EnableKeyRotationRequest, KeyRequest, ListKeyRotationsRequest, ListKeyRotationsResponse, RotationEntry,
    RotationStatusResponse,
};

pub(super) fn run(global: &Global, command: &RotationCommand, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    match command {
        RotationCommand::Enable { key, period } => {
            let id = store.describe(key)?.key_id.to_string();
            let request = EnableKeyRotationRequest { key_id: id.clone(), rotation_period_in_days: *period };
            store.call::<Value>("EnableKeyRotation", &request)?;
            status(&store, id, output)
        }
        RotationCommand::Disable { key } => {
            let id = store.describe(key)?.key_id.to_string();
            store.call::<Value>("DisableKeyRotation", &KeyRequest { key_id: id.clone() })?;
            status(&store, id, output)
        }
        RotationCommand::Status { key } => {
            let id = store.describe(key)?.key_id.to_string();
            status(&store, id, output)
        }
        RotationCommand::List { key } => list(&store, key, output),
    }
}

fn status(store: &KeyStore, key_id: String, output: &Output) -> CliResult<()> {
    let status: RotationStatusResponse = store.call("GetKeyRotationStatus", &KeyRequest { key_id })?;
    output.print(&status, |status| {
        let mut lines =
            vec![("rotates by itself", if status.key_rotation_enabled { "yes" } else { "no" }.to_owned())];
        if let Some(days) = status.rotation_period_in_days {
            lines.push(("period", format!("{days} days")));
        }
        if let Some(next) = status.next_rotation_date {
            lines.push(("next", next.to_string()));
        }
        fields(&lines)
    })
}

fn list(store: &KeyStore, key: &str, output: &Output) -> CliResult<()> {
    let mut request = ListKeyRotationsRequest {
        key_id: store.describe(key)?.key_id.to_string(),
        include_key_material: Some("ALL_KEY_MATERIAL".to_owned()),
        limit: None,
        marker: None,
    };
    let mut all: Vec<RotationEntry> = Vec::new();
    loop {
        let page: ListKeyRotationsResponse = store.call("ListKeyRotations", &request)?;
        all.extend(page.rotations);
        if page.next_marker.is_none() {
            break;
        }
        request.marker = page.next_marker;
    }
    output.print(&all, |all| {
        let row = |rotation: &RotationEntry| {
            vec![
                rotation.key_material_version.to_string(),
                rotation.rotation_date.to_string(),
                rotation.rotation_type.clone().unwrap_or_else(|| "FIRST".to_owned()),
                rotation.key_material_state.clone(),
                rotation.key_material_id.clone(),
            ]
        };
        table(
            &["VERSION", "SINCE", "CAUSE", "STATE", "MATERIAL ID"],
            &all.iter().map(row).collect::<Vec<_>>(),
        )
    })
}
