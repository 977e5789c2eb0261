//! `lock` and `unlock`: keys out of memory, and back, while mounts stay.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::key::report_cuts;
use super::key_store::{KeyStore, dir, is_served, no_store};
use super::output::Output;
use super::secret::{Purpose, secret};
use super::settings::idle_timeout;
use super::status::ask;
use crate::kms::store_api::{LockStoreResponse, SecretMessage, UnlockStoreRequest, UnlockStoreResponse};
use crate::kms::store_exists;
use crate::provider::SocketClient;
use crate::server::Vigilance;

/// When a process that has the key store open is to lock it by itself.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct LockWhen {
    /// Lock the key store when nobody has used a key for that long: 90s, 10m, 2h
    ///
    /// As 'kmsfs lock' does. Opening, making, reading and writing files counts as use, on every mount of
    /// the key store, and so does every call that needs key material. Looking at names and attributes
    /// does not, nor does what the kernel answers from its caches. For the process that has the key store
    /// open.
    #[arg(long, value_name = "DURATION", value_parser = idle_timeout)]
    pub(super) lock_after: Option<Duration>,
    /// Lock the key store after the machine was suspended
    ///
    /// It is noticed within a second of waking up. A unit for systemd that locks before is in
    /// scripts/systemd.
    #[arg(long)]
    pub(super) lock_on_suspend: bool,
}

impl From<LockWhen> for Vigilance {
    fn from(when: LockWhen) -> Self {
        Self { lock_after: when.lock_after, on_suspend: when.lock_on_suspend }
    }
}

pub(super) fn lock(global: &Global, output: &Output) -> CliResult<()> {
    let dir = dir(global)?;
    if !is_served(&dir) {
        check_exists(&dir)?;
        return output.print(&json!({ "WasLocked": true, "Mounts": [] }), |_| {
            vec!["no process has the key store open".to_owned()]
        });
    }
    let answer: LockStoreResponse =
        KeyStore::Served(SocketClient::new(&dir)).look_after("LockStore", &json!({}))?;
    let silent: Vec<&str> =
        answer.mounts.iter().filter(|m| m.unreachable).map(|m| m.mount.as_str()).collect();
    if !silent.is_empty() {
        let message = format!(
            "the key store is locked, but not every mount answered, and files may still be readable at {}; \
             unmount there, or end the mount's process",
            silent.join(", ")
        );
        return Err(CliError::new(Code::NotAllLocked, message).with(json!({ "silent_mounts": silent })));
    }
    let cut = report_cuts(&answer.mounts, output);
    output.print(&answer, |answer| {
        if answer.was_locked {
            return vec!["the key store had been locked already".to_owned()];
        }
        [vec!["the key store is locked".to_owned()], cut].concat()
    })
}

pub(super) fn unlock(global: &Global, output: &Output) -> CliResult<()> {
    let dir = dir(global)?;
    if !is_served(&dir) {
        check_exists(&dir)?;
        let message = "no process has the key store open, so there is none to unlock; mount a volume, or run \
                       'kmsfs serve'";
        return Err(CliError::new(Code::StoreInUse, message));
    }
    if ask(&dir)?.unlocked {
        return output.print(&json!({ "WasLocked": false, "Silent": [] }), |_| {
            vec!["the key store is not locked".to_owned()]
        });
    }
    let request = UnlockStoreRequest { secret: SecretMessage::from(&secret(global, Purpose::Unlock)?) };
    let answer: UnlockStoreResponse =
        KeyStore::Served(SocketClient::new(&dir)).look_after("UnlockStore", &request)?;
    for mount in &answer.silent {
        output.warn(&format!("the mount at {mount} did not answer; its files come back when it does"));
    }
    output.print(&answer, |_: &UnlockStoreResponse| vec!["the key store is unlocked".to_owned()])
}

fn check_exists(dir: &Path) -> CliResult<()> {
    if store_exists(dir) { Ok(()) } else { Err(no_store(dir)) }
}
