//! `access-key`: what users who come over the network sign their requests with.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::Global;
use super::exit::CliResult;
use super::key_store::KeyStore;
use super::output::{Output, fields, table};
use super::secret::first_line;
use crate::kms::api::{
    CreateAccessKeyRequest, CreateAccessKeyResponse, DeleteAccessKeyRequest, ListAccessKeysResponse,
    UpdateAccessKeyRequest,
};

/// What to do with access keys.
#[derive(Debug, Subcommand)]
pub(super) enum AccessKeyCommand {
    /// Create an access key for a user, and print its secret this once
    ///
    /// Put both into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into ~/.aws/credentials.
    Create(Create),
    /// List all access keys, without their secrets
    List,
    /// Believe no request that is signed with an access key, until it is enabled again
    Disable {
        /// Id of the access key
        id: String,
    },
    /// Believe requests that are signed with an access key again
    Enable {
        /// Id of the access key
        id: String,
    },
    /// Delete an access key
    Delete {
        /// Id of the access key
        id: String,
    },
}

/// Arguments of `access-key create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Whom it is for: the name in policies, and in arn:aws:iam::ACCOUNT:user/NAME
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Bring this id, made elsewhere: 16 to 128 letters, digits or '_'
    #[arg(long, value_name = "ID", requires = "secret_file")]
    access_key_id: Option<String>,
    /// Bring the secret on the first line of FILE: 32 to 128 characters
    #[arg(long, value_name = "FILE", requires = "access_key_id")]
    secret_file: Option<PathBuf>,
}

pub(super) fn run(global: &Global, command: &AccessKeyCommand, output: &Output) -> CliResult<()> {
    match command {
        AccessKeyCommand::Create(arguments) => create(global, arguments, output),
        AccessKeyCommand::List => list(global, output),
        AccessKeyCommand::Disable { id } => update(global, id, "Inactive", "disabled", output),
        AccessKeyCommand::Enable { id } => update(global, id, "Active", "enabled", output),
        AccessKeyCommand::Delete { id } => delete(global, id, output),
    }
}

fn create(global: &Global, arguments: &Create, output: &Output) -> CliResult<()> {
    let secret_access_key = arguments.secret_file.as_deref().map(first_line).transpose()?;
    let request = CreateAccessKeyRequest {
        user_name: arguments.user.clone(),
        access_key_id: arguments.access_key_id.clone(),
        secret_access_key,
    };
    let made: CreateAccessKeyResponse = KeyStore::open(global)?.look_after("CreateAccessKey", &request)?;
    output.print(&made, |made| {
        fields(&[
            ("user", made.access_key.user_name.clone()),
            ("access key id", made.access_key.access_key_id.clone()),
            ("secret access key", made.secret_access_key.to_string()),
        ])
    })
}

fn list(global: &Global, output: &Output) -> CliResult<()> {
    let listed: ListAccessKeysResponse = KeyStore::open(global)?.look_after("ListAccessKeys", &json!({}))?;
    output.print(&listed, |listed| {
        let row = |key: &crate::kms::api::AccessKeyMetadata| {
            let created = key.create_date.to_string();
            vec![key.access_key_id.clone(), key.user_name.clone(), key.status.clone(), created]
        };
        let rows: Vec<_> = listed.access_keys.iter().map(row).collect();
        table(&["ACCESS KEY ID", "USER", "STATUS", "CREATED"], &rows)
    })
}

fn update(global: &Global, id: &str, status: &str, done: &str, output: &Output) -> CliResult<()> {
    let request = UpdateAccessKeyRequest { access_key_id: id.to_owned(), status: status.to_owned() };
    KeyStore::open(global)?.look_after::<Value>("UpdateAccessKey", &request)?;
    output.print(&request, |_| vec![format!("{done} {id}")])
}

fn delete(global: &Global, id: &str, output: &Output) -> CliResult<()> {
    let request = DeleteAccessKeyRequest { access_key_id: id.to_owned() };
    KeyStore::open(global)?.look_after::<Value>("DeleteAccessKey", &request)?;
    output.print(&request, |_| vec![format!("deleted {id}")])
}
