//! `alias`: second names for keys.

use clap::Subcommand;
use serde_json::Value;

use super::args::Global;
use super::exit::CliResult;
use super::key::{full_alias, list_aliases};
use super::key_store::KeyStore;
use super::output::{Output, table};
use crate::kms::api::{AliasListEntry, AliasRequest, DeleteAliasRequest};

/// What to do with aliases.
#[derive(Debug, Subcommand)]
pub(super) enum AliasCommand {
    /// Give a key a name
    Create {
        /// alias/NAME, or just NAME
        alias: String,
        /// Id, ARN or another alias
        key: String,
    },
    /// Let a name mean another key of the same kind
    ///
    /// Files and directories stay under the key that they are under.
    Update {
        /// alias/NAME, or just NAME
        alias: String,
        /// Id, ARN or another alias
        key: String,
    },
    /// Take a name away; the key stays
    Delete {
        /// alias/NAME, or just NAME
        alias: String,
    },
    /// List all names, or those of a key
    List {
        /// Id, ARN or alias/NAME
        key: Option<String>,
    },
}

pub(super) fn run(global: &Global, command: &AliasCommand, output: &Output) -> CliResult<()> {
    match command {
        AliasCommand::Create { alias, key } => name(global, "CreateAlias", alias, key, output),
        AliasCommand::Update { alias, key } => name(global, "UpdateAlias", alias, key, output),
        AliasCommand::Delete { alias } => {
            let request = DeleteAliasRequest { alias_name: full_alias(alias)?.as_str().to_owned() };
            let response: Value = KeyStore::open(global)?.call("DeleteAlias", &request)?;
            output.print(&response, |_| vec![format!("deleted {}", request.alias_name)])
        }
        AliasCommand::List { key } => list(global, key.as_deref(), output),
    }
}

fn name(global: &Global, operation: &str, alias: &str, key: &str, output: &Output) -> CliResult<()> {
    let alias = full_alias(alias)?;
    let store = KeyStore::open(global)?;
    let request = AliasRequest { alias_name: alias.as_str().to_owned(), target_key_id: store.key_id(key)? };
    let response: Value = store.call(operation, &request)?;
    output.print(&response, |_| vec![format!("{} names {}", request.alias_name, request.target_key_id)])
}

fn list(global: &Global, key: Option<&str>, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let key = key.map(|key| store.key_id(key)).transpose()?;
    output.print(&list_aliases(&store, key)?, |all| {
        let row = |alias: &AliasListEntry| {
            let since = alias.last_updated_date.to_string();
            vec![alias.alias_name.clone(), alias.target_key_id.to_string(), since]
        };
        table(&["ALIAS", "KEY ID", "SINCE"], &all.aliases.iter().map(row).collect::<Vec<_>>())
    })
}
