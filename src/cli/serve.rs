//! `serve`: the key service without a mount, on its Unix socket and for clients of AWS KMS over TCP.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use sd_notify::NotifyState;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::args::Global;
use super::exit::{CliError, CliResult, Code, words};
use super::key_store::{KeyStore, dir, is_served, no_store};
use super::lock::LockWhen;
use super::log;
use super::output::Output;
use super::secret::{Purpose, secret};
use crate::clock::SystemClock;
use crate::kms::{Realm, Service, StoreError, store_exists};
use crate::server::http::{Certificate, HttpError, HttpServer, Listeners};
use crate::server::{Server, Vigil, asleep};
use crate::sys::{activation, process};

/// Name of a socket of the service manager that is for `/healthz` and `/metrics`.
const PAGES_SOCKET: &str = "metrics";

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Listen there for clients of AWS KMS; may be given several times
    ///
    /// Requests must be signed with an access key: see 'kmsfs access-key create'. Other addresses than
    /// loopback ones need a certificate. Sockets that a service manager passes are listened on too.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// The certificate for TLS with its chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Answer /healthz and /metrics there, unsigned and in plain HTTP, and nowhere else
    ///
    /// Without it they are answered where --listen names a loopback address.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics_listen: Vec<SocketAddr>,
    /// Create the key store if there is none
    #[arg(long)]
    create: bool,
    /// Region of the key store: that of a new one, or what an existing one must have
    ///
    /// A key store keeps its region and account for ever: they are in the name of every key. By
    /// default a new one has the region local.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Account of the key store, 12 digits, in the same way; by default 000000000000
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    #[command(flatten)]
    lock_when: LockWhen,
}

/// What is served where.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Serving {
    key_store: PathBuf,
    region: String,
    account: String,
    endpoints: Vec<String>,
    metrics: Vec<String>,
}

pub(super) fn serve(global: &Global, arguments: &Serve, output: &Output) -> CliResult<()> {
    log::to_stderr(global.verbose.max(1));
    let dir = dir(global)?;
    // Everything that can be refused, before a secret is asked for.
    let certificate = arguments.certificate()?;
    let listeners = arguments.listeners()?;
    // Before there are threads, so that none of them gets a signal instead.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.map_err(|e| unexpected("handling signals", &e))?;
    process::raise_descriptor_limit().map_err(|e| unexpected("raising the limit of open files", &e))?;
    let service = arguments.open(global, &dir)?;
    if !crate::secret::all_locked() {
        tracing::warn!("keys could not be locked into memory (see 'ulimit -l'); they may reach swap");
    }
    let serving = arguments.serving(&dir, &service, &listeners);
    let local = Server::start(Arc::clone(&service));
    let local = local.map_err(|e| unexpected("the key service's socket", &e))?;
    let has_tls = certificate.is_some();
    let vigil = Vigil::start(Arc::clone(&service), arguments.lock_when.into(), asleep);
    let vigil = vigil.map_err(|e| unexpected("watching over the key store", &e))?;
    let remote = HttpServer::start(service, Arc::new(SystemClock), listeners, certificate)?;
    output.print(&serving, Serving::lines)?;
    let status = format!("serving the key store {}", dir.display());
    notify(&[NotifyState::Status(&status), NotifyState::Ready]);
    for signal in signals.forever() {
        if signal != SIGHUP || !has_tls {
            tracing::info!("signal {signal}: ending");
            break;
        }
        match arguments.certificate() {
            Ok(Some(certificate)) => {
                remote.renew(certificate);
                tracing::info!("the certificate was read again");
            }
            Ok(None) => {}
            Err(error) => tracing::error!("the certificate stays as it was: {error}"),
        }
    }
    notify(&[NotifyState::Status("finishing calls"), NotifyState::Stopping]);
    remote.end();
    local.end();
    drop(vigil);
    Ok(())
}

impl Serve {
    fn certificate(&self) -> CliResult<Option<Certificate>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => Ok(Some(Certificate::load(chain, key)?)),
            _ => Ok(None),
        }
    }

    /// What was asked for, and what a service manager passes.
    fn listeners(&self) -> CliResult<Listeners> {
        let all = |addresses: &[SocketAddr]| addresses.iter().map(bind).collect::<CliResult<Vec<_>>>();
        let mut listeners = Listeners { calls: all(&self.listen)?, pages: all(&self.metrics_listen)? };
        let passed = activation::listeners().map_err(|e| unexpected("the service manager's sockets", &e))?;
        for (name, listener) in passed {
            let list = if name == PAGES_SOCKET { &mut listeners.pages } else { &mut listeners.calls };
            list.push(listener);
        }
        listeners.check(self.tls_cert.is_some())?;
        Ok(listeners)
    }

    fn open(&self, global: &Global, dir: &Path) -> CliResult<Arc<Service>> {
        let in_use = || {
            let message = format!(
                "the key store in {} is served by another process; end that one, or unmount its volumes, then retry",
                dir.display()
            );
            CliError::new(Code::StoreInUse, message)
        };
        if is_served(dir) {
            return Err(in_use());
        }
        let store = if store_exists(dir) {
            KeyStore::unlock(dir, &secret(global, Purpose::Unlock)?, global.audit.into())?
        } else if self.create {
            KeyStore::create_in(
                dir,
                &secret(global, Purpose::Create)?,
                self.realm_of_new()?,
                global.audit.into(),
            )?
        } else {
            return Err(no_store(dir));
        };
        let KeyStore::Own(service) = store else { return Err(in_use()) };
        self.check_realm(dir, service.realm())?;
        Ok(service)
    }

    fn realm_of_new(&self) -> CliResult<Realm> {
        let usual = Realm::default();
        let realm = Realm {
            region: self.region.clone().unwrap_or(usual.region),
            account: self.account.clone().unwrap_or(usual.account),
        };
        if realm.is_valid() {
            return Ok(realm);
        }
        let refused =
            StoreError::Invalid("the region must be letters, digits and '-', the account 12 digits");
        Err(refused.into())
    }

    fn check_realm(&self, dir: &Path, realm: &Realm) -> CliResult<()> {
        let differs = |asked: &Option<String>, has: &str| asked.as_deref().is_some_and(|asked| asked != has);
        if !differs(&self.region, &realm.region) && !differs(&self.account, &realm.account) {
            return Ok(());
        }
        let message = format!(
            "the key store in {} is region {} of account {}, for ever; leave out --region and --account, or create \
             another key store",
            dir.display(),
            realm.region,
            realm.account
        );
        Err(CliError::new(Code::Usage, message))
    }

    fn serving(&self, dir: &Path, service: &Service, listeners: &Listeners) -> Serving {
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        let urls = |scheme: &str, listeners: &[TcpListener]| {
            let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
            addresses.map(|address| format!("{scheme}://{address}")).collect()
        };
        Serving {
            key_store: dir.to_owned(),
            region: service.realm().region.clone(),
            account: service.realm().account.clone(),
            endpoints: urls(scheme, &listeners.calls),
            metrics: urls("http", &listeners.pages),
        }
    }
}

impl Serving {
    fn lines(&self) -> Vec<String> {
        let (store, region, account) = (self.key_store.display(), &self.region, &self.account);
        let mut lines = vec![format!("serving {store}, region {region} of account {account}")];
        lines.extend(self.endpoints.iter().map(|url| format!("endpoint {url}")));
        lines.extend(self.metrics.iter().map(|url| format!("metrics {url}/metrics")));
        lines
    }
}

fn bind(address: &SocketAddr) -> CliResult<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let (code, next) = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => (Code::StoreInUse, "end what listens there, or choose another port"),
            Some(libc::EACCES) => (Code::Permission, "choose a port from 1024 on"),
            _ => (Code::Usage, "choose an address of this machine"),
        };
        CliError::new(code, format!("{address}: {}; {next}", words(&error)))
    })
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager could not be told: {error}");
    }
}

fn unexpected(what: &str, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(Code::Unexpected, format!("{what}: {error}"))
}

impl From<HttpError> for CliError {
    fn from(error: HttpError) -> Self {
        let code = match &error {
            HttpError::NeedsTls(_) | HttpError::Certificate { .. } => Code::Usage,
            HttpError::Io(_) => Code::Unexpected,
        };
        Self::new(code, error.to_string())
    }
}
