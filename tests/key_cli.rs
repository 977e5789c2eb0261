//! Every command of `kmsfs key`, `alias` and `tag`, run for real: its table, its JSON, its refusals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
#[path = "key_cli/confirmation.rs"]
mod confirmation;

use common::World;
use serde_json::Value;

const KEY_STATE: i32 = 20;

fn state(world: &World, key: &str) -> Value {
    world.json(&["key", "describe", key])["KeyState"].clone()
}
