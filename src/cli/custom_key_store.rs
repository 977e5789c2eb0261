//! `custom-key-store`: key managers elsewhere that have the other half of keys.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::key_store::KeyStore;
use super::output::{Output, fields, table};
use super::secret::{first_line, read_file};
use crate::kms::ConnectionState;
use crate::kms::api::{
    CreateCustomKeyStoreRequest, CreateCustomKeyStoreResponse, CustomKeyStoreRequest,
    CustomKeyStoresListEntry, DescribeCustomKeyStoresRequest, DescribeCustomKeyStoresResponse,
    UpdateCustomKeyStoreRequest, XksProxyAuthenticationCredential,
};

/// What to do with custom key stores.
#[derive(Debug, Subcommand)]
pub(super) enum CustomKeyStoreCommand {
    /// Make an external key store known, and print its id
    ///
    /// Its proxy is asked for its health. Connect it before keys are created in it.
    Create(Create),
    /// List external key stores, or show one
    Describe {
        /// Id or name
        store: Option<String>,
    },
    /// Connect an external key store, so that its keys can be used
    ///
    /// It stays connected until it is disconnected, also when its proxy or this machine stops meanwhile.
    Connect {
        /// Id or name
        store: String,
    },
    /// Disconnect an external key store
    ///
    /// When this returns, nothing under its keys can be read or written, in open files neither. Connecting
    /// it brings them back.
    Disconnect {
        /// Id or name
        store: String,
    },
    /// Change an external key store
    ///
    /// Name and credential may change while it is connected, the rest while it is disconnected.
    Update(Update),
    /// Forget an external key store that is disconnected and has no keys
    Delete {
        /// Id or name
        store: String,
    },
}

/// Arguments of `custom-key-store create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// A name for it
    name: String,
    /// Where its proxy is: https://HOST or https://HOST:PORT; http:// for 127.0.0.1 and localhost alone
    #[arg(long, value_name = "URL")]
    endpoint: String,
    #[command(flatten)]
    proxy: ProxyArguments,
}

/// Arguments of `custom-key-store update`.
#[derive(Debug, Args)]
pub(super) struct Update {
    /// Id or name
    store: String,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// Where its proxy is now
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    proxy: ProxyArguments,
}

/// How a proxy is asked.
#[derive(Debug, Args)]
struct ProxyArguments {
    /// Take path and credential from FILE, as proxies write it for AWS
    #[arg(long, value_name = "FILE", conflicts_with_all = ["path", "access_key_id", "secret_file"])]
    configuration: Option<PathBuf>,
    /// The path of its API, such as /kms/xks/v1
    #[arg(long)]
    path: Option<String>,
    /// The access key id that requests are signed with
    #[arg(long, value_name = "ID", requires = "secret_file")]
    access_key_id: Option<String>,
    /// The secret access key, on the first line of FILE
    #[arg(long, value_name = "FILE", requires = "access_key_id")]
    secret_file: Option<PathBuf>,
    /// Certificates in PEM of the only authorities that its certificate may come from
    ///
    /// Without it, those that this machine trusts. With an empty file, these again.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// What AWS calls a proxy configuration file.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    xks_proxy_uri_path: String,
    xks_proxy_authentication_credential: XksProxyAuthenticationCredential,
}

pub(super) fn run(global: &Global, command: &CustomKeyStoreCommand, output: &Output) -> CliResult<()> {
    let keys = || KeyStore::open(global);
    match command {
        CustomKeyStoreCommand::Create(arguments) => create(global, arguments, output),
        CustomKeyStoreCommand::Describe { store: None } => list(&keys()?, output),
        CustomKeyStoreCommand::Describe { store: Some(store) } => {
            output.print(&find(&keys()?, store)?, lines)
        }
        CustomKeyStoreCommand::Connect { store } => connect(&keys()?, store, output),
        CustomKeyStoreCommand::Disconnect { store } => {
            carry_out(&keys()?, "DisconnectCustomKeyStore", store, "disconnected", output)
        }
        CustomKeyStoreCommand::Update(arguments) => update(global, arguments, output),
        CustomKeyStoreCommand::Delete { store } => {
            carry_out(&keys()?, "DeleteCustomKeyStore", store, "forgotten", output)
        }
    }
}

fn create(global: &Global, arguments: &Create, output: &Output) -> CliResult<()> {
    let (path, credential) = arguments.proxy.path_and_credential()?;
    let missing = |what: &str| {
        let message = format!(
            "the proxy's {what} is missing; give --configuration, or --path, --access-key-id and --secret-file"
        );
        CliError::new(Code::Usage, message)
    };
    let request = CreateCustomKeyStoreRequest {
        custom_key_store_name: arguments.name.clone(),
        custom_key_store_type: Some("EXTERNAL_KEY_STORE".to_owned()),
        xks_proxy_uri_endpoint: Some(arguments.endpoint.clone()),
        xks_proxy_uri_path: Some(path.ok_or_else(|| missing("path"))?),
        xks_proxy_authentication_credential: Some(credential.ok_or_else(|| missing("credential"))?),
        xks_proxy_connectivity: Some("PUBLIC_ENDPOINT".to_owned()),
        trust_anchor_certificate: arguments.proxy.ca()?.filter(|pem| !pem.is_empty()),
    };
    let made: CreateCustomKeyStoreResponse =
        KeyStore::open(global)?.call("CreateCustomKeyStore", &request)?;
    output.print(&made, |made| vec![made.custom_key_store_id.clone()])
}

fn update(global: &Global, arguments: &Update, output: &Output) -> CliResult<()> {
    let (path, credential) = arguments.proxy.path_and_credential()?;
    let ca = arguments.proxy.ca()?;
    let keys = KeyStore::open(global)?;
    let request = UpdateCustomKeyStoreRequest {
        custom_key_store_id: find(&keys, &arguments.store)?.custom_key_store_id,
        new_custom_key_store_name: arguments.name.clone(),
        xks_proxy_uri_endpoint: arguments.endpoint.clone(),
        xks_proxy_uri_path: path,
        xks_proxy_authentication_credential: credential,
        trust_anchor_certificate: ca,
        ..UpdateCustomKeyStoreRequest::default()
    };
    keys.call::<Value>("UpdateCustomKeyStore", &request)?;
    output.print(&find(&keys, &request.custom_key_store_id)?, lines)
}

fn list(keys: &KeyStore, output: &Output) -> CliResult<()> {
    // There are at most ten.
    let request = DescribeCustomKeyStoresRequest::default();
    let listed: DescribeCustomKeyStoresResponse = keys.call("DescribeCustomKeyStores", &request)?;
    output.print(&listed, |listed| {
        let row = |store: &CustomKeyStoresListEntry| {
            let (id, name) = (store.custom_key_store_id.clone(), store.custom_key_store_name.clone());
            vec![
                id,
                name,
                store.connection_state.to_string(),
                store.xks_proxy_configuration.uri_endpoint.clone(),
            ]
        };
        let rows: Vec<_> = listed.custom_key_stores.iter().map(row).collect();
        table(&["CUSTOM KEY STORE ID", "NAME", "CONNECTION", "PROXY"], &rows)
    })
}

fn connect(keys: &KeyStore, store: &str, output: &Output) -> CliResult<()> {
    let id = find(keys, store)?.custom_key_store_id;
    let request = CustomKeyStoreRequest { custom_key_store_id: id.clone() };
    keys.call::<Value>("ConnectCustomKeyStore", &request)?;
    let now = find(keys, &id)?;
    if now.connection_state == ConnectionState::Failed {
        let why = now.connection_error_code.map_or("", |code| code.name());
        let message = format!(
            "{id} could not be connected: {why}; disconnect it, look after its proxy or correct its settings, then retry"
        );
        return Err(CliError::new(Code::StoreInUse, message));
    }
    output.print(&now, |now| vec![format!("{} {}", now.connection_state, now.custom_key_store_id)])
}

fn carry_out(keys: &KeyStore, operation: &str, store: &str, done: &str, output: &Output) -> CliResult<()> {
    let request = CustomKeyStoreRequest { custom_key_store_id: find(keys, store)?.custom_key_store_id };
    keys.call::<Value>(operation, &request)?;
    output.print(&request, |request| vec![format!("{done} {}", request.custom_key_store_id)])
}

/// The custom key store of this id or name.
fn find(keys: &KeyStore, store: &str) -> CliResult<CustomKeyStoresListEntry> {
    let mut request = DescribeCustomKeyStoresRequest::default();
    if store.starts_with("cks-") {
        request.custom_key_store_id = Some(store.to_owned());
    } else {
        request.custom_key_store_name = Some(store.to_owned());
    }
    let mut found: DescribeCustomKeyStoresResponse = keys.call("DescribeCustomKeyStores", &request)?;
    found.custom_key_stores.pop().ok_or_else(|| {
        CliError::new(Code::NoSuchKey, format!("there is no custom key store {store}; list them"))
    })
}

/// The id of the custom key store of this id or name.
pub(super) fn id(keys: &KeyStore, store: &str) -> CliResult<String> {
    Ok(find(keys, store)?.custom_key_store_id)
}

fn lines(store: &CustomKeyStoresListEntry) -> Vec<String> {
    let proxy = &store.xks_proxy_configuration;
    let state = match store.connection_error_code {
        Some(code) => format!("{} ({code})", store.connection_state),
        None => store.connection_state.to_string(),
    };
    let trusted =
        if store.trust_anchor_certificate.is_some() { "those given" } else { "those of this machine" };
    fields(&[
        ("custom key store id", store.custom_key_store_id.clone()),
        ("name", store.custom_key_store_name.clone()),
        ("connection", state),
        ("proxy", format!("{}{}", proxy.uri_endpoint, proxy.uri_path)),
        ("access key id", proxy.access_key_id.clone()),
        ("authorities", trusted.to_owned()),
        ("created", store.creation_date.to_string()),
    ])
}

impl ProxyArguments {
    fn path_and_credential(&self) -> CliResult<(Option<String>, Option<XksProxyAuthenticationCredential>)> {
        if let Some(file) = &self.configuration {
            let bytes = Zeroizing::new(read_file(file)?);
            // The error would repeat what is there, which may be the secret.
            let read: Configuration = serde_json::from_slice(&bytes).map_err(|_| malformed(file))?;
            return Ok((Some(read.xks_proxy_uri_path), Some(read.xks_proxy_authentication_credential)));
        }
        let credential = match (&self.access_key_id, &self.secret_file) {
            (Some(id), Some(file)) => Some(XksProxyAuthenticationCredential {
                access_key_id: id.clone(),
                raw_secret_access_key: first_line(file)?,
            }),
            _ => None,
        };
        Ok((self.path.clone(), credential))
    }

    fn ca(&self) -> CliResult<Option<String>> {
        let Some(file) = &self.ca else { return Ok(None) };
        std::fs::read_to_string(file).map(Some).map_err(|error| CliError::io(file, &error))
    }
}

fn malformed(file: &Path) -> CliError {
    let message = format!(
        "{}: not a proxy's configuration; it is JSON with XksProxyUriPath and XksProxyAuthenticationCredential",
        file.display()
    );
    CliError::new(Code::Usage, message)
}
