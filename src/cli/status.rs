//! `status`: what is alive.

use std::path::PathBuf;

use serde::Serialize;

use super::args::Global;
use super::exit::{CliError, CliResult};
use super::key_store::{dir, is_served};
use super::output::{Output, count};
use crate::kms::api::StatusResponse;
use crate::kms::{store_exists, wire};
use crate::mount;
use crate::provider::SocketClient;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    key_store: PathBuf,
    exists: bool,
    /// What the process says that has the key store open.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<StatusResponse>,
    /// Mounts that belong to other key stores, or whose process does not answer.
    other_mounts: Vec<OtherMount>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OtherMount {
    volume_directory: PathBuf,
    mountpoint: PathBuf,
}

pub(super) fn status(global: &Global, output: &Output) -> CliResult<()> {
    let key_store = dir(global)?;
    let service = if is_served(&key_store) { Some(ask(&key_store)?) } else { None };
    let known: Vec<&str> =
        service.iter().flat_map(|s| s.mounts.iter().map(|mount| mount.mountpoint.as_str())).collect();
    let mounts = mount::mounts().map_err(|e| CliError::io("/proc/self/mountinfo".as_ref(), &e))?;
    let other_mounts = mounts
        .into_iter()
        .filter(|entry| !known.iter().any(|known| entry.mountpoint.as_os_str() == *known))
        .map(|entry| OtherMount { volume_directory: entry.source, mountpoint: entry.mountpoint })
        .collect();
    let status = Status { exists: store_exists(&key_store), key_store, service, other_mounts };
    output.print(&status, lines)
}

pub(super) fn ask(key_store: &std::path::Path) -> CliResult<StatusResponse> {
    let answer = SocketClient::new(key_store).call(wire::STATUS, &serde_json::json!({}))?;
    serde_json::from_value(answer)
        .map_err(|e| CliError::new(super::exit::Code::Unexpected, format!("the key service's answer: {e}")))
}

fn lines(status: &Status) -> Vec<String> {
    let store = status.key_store.display();
    let mut lines = vec![match &status.service {
        Some(service) => {
            let keys: Vec<String> = service.keys.iter().map(|(state, n)| format!("{n} {state}")).collect();
            let swap = if service.memory_locked { "" } else { "; keys may reach swap" };
            let process = service.pid;
            let state = match service.locked {
                None => format!("unlocked by process {process}"),
                Some(locked) => {
                    format!("locked since {} {}, held by process {process}", locked.since, locked.reason)
                }
            };
            format!("key store {store}: {state}; keys: {}{swap}", keys.join(", "))
        }
        None if status.exists => format!("key store {store}: locked, no process has it open"),
        None => format!("key store {store}: does not exist"),
    }];
    for mount in status.service.iter().flat_map(|service| &service.mounts) {
        let read_only = if mount.read_only { ", read-only" } else { "" };
        lines.push(format!(
            "mount {}: volume {}, process {}{read_only}",
            mount.mountpoint, mount.volume, mount.pid
        ));
        lines.extend(
            mount
                .open_files
                .iter()
                .map(|(key, files)| format!("  {} under {key}", count(*files, "open file"))),
        );
    }
    for other in &status.other_mounts {
        lines.push(format!(
            "mount {}: volume in {}, of another key store",
            other.mountpoint.display(),
            other.volume_directory.display()
        ));
    }
    lines
}
