//! The key service over TCP, as clients of AWS KMS expect it: `POST /` with an `X-Amz-Target`, signed
//! with an access key of this store (SigV4).
//!
//! | module | |
//! |---|---|
//! | `connection` | lets connections in, as many as there is room for |
//! | `pace` | cuts off who sends or takes too slowly |
//! | `request` | one request: believed, read, carried out, answered |
//! | `replay` | whether a request was seen before |
//! | `refusals` | requests that are not believed, in the audit log |
//! | `workers` | threads for calls, apart for slow ones |
//! | `answer` | the shapes of answers |
//! | `metrics` | `/healthz` and `/metrics`, which need no signature |
//! | `tls` | certificates |
//!
//! A remote caller can call the operations of AWS KMS, and none of the store's own, which name files
//! of this machine. Plain HTTP is served on loopback addresses alone.

mod answer;
mod connection;
mod metrics;
mod pace;
mod refusals;
mod replay;
mod request;
mod tls;
mod workers;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::kms::{Caller, Service};
use connection::Room;
use metrics::Metrics;
use refusals::Refusals;
use replay::Replays;
use workers::Workers;

pub use tls::Certificate;

/// Threads that move bytes.
const IO_THREADS: usize = 2;
/// How long ending waits for calls under way: longer than a state change takes.
const END_TIME: Duration = Duration::from_secs(20);

/// Why the key service is not served.
#[derive(Debug, Error)]
pub enum HttpError {
    /// An address that others can reach, and no certificate.
    #[error(
        "{0} can be reached from elsewhere: give a certificate with --tls-cert and --tls-key, or listen on 127.0.0.1"
    )]
    NeedsTls(SocketAddr),
    /// A certificate or its key cannot be used.
    #[error("{path}: {why}; give PEM files, the certificate with its chain and its private key")]
    Certificate {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Where to listen.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For calls; for `/healthz` and `/metrics` too if they are on loopback and `pages` is empty.
    pub calls: Vec<TcpListener>,
    /// For `/healthz` and `/metrics` alone, in plain HTTP.
    pub pages: Vec<TcpListener>,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy)]
struct Serves {
    calls: bool,
    pages: bool,
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct HttpServer {
    runtime: Option<Runtime>,
    end: watch::Sender<bool>,
    shared: Arc<Shared>,
}

/// What all connections have in common.
struct Shared {
    service: Arc<Service>,
    clock: Arc<dyn Clock>,
    tls: RwLock<Option<TlsAcceptor>>,
    /// What callers are, but for where they come from.
    process: Caller,
    room: Room,
    refusals: Refusals,
    replays: Replays,
    workers: Workers,
    metrics: Metrics,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("service", &self.service).finish_non_exhaustive()
    }
}

impl HttpServer {
    /// Serves `service`. With a certificate all calls come through TLS.
    ///
    /// # Errors
    /// [`HttpError::NeedsTls`]; [`HttpError::Io`] when a thread or a listener cannot be made.
    pub fn start(
        service: Arc<Service>,
        clock: Arc<dyn Clock>,
        listeners: Listeners,
        certificate: Option<Certificate>,
    ) -> Result<Self, HttpError> {
        listeners.check(certificate.is_some())?;
        let own_pages = listeners.pages.is_empty();
        let mut all = Vec::new();
        for listener in listeners.calls {
            let pages = own_pages && is_loopback(listener.local_addr()?);
            all.push((listener, Serves { calls: true, pages }));
        }
        let pages = listeners.pages.into_iter();
        all.extend(pages.map(|listener| (listener, Serves { calls: false, pages: true })));
        let runtime = Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .max_blocking_threads(workers::MAX_THREADS)
            .thread_name("kms-http")
            .enable_all()
            .build()?;
        let (end, ending) = watch::channel(false);
        let shared = Arc::new(Shared {
            service,
            clock,
            tls: RwLock::new(certificate.map(acceptor)),
            process: Caller::current(),
            room: Room::default(),
            refusals: Refusals::default(),
            replays: Replays::default(),
            workers: Workers::default(),
            metrics: Metrics::default(),
        });
        let server = Self { runtime: Some(runtime), end, shared };
        for (listener, serves) in all {
            server.listen(listener, serves, ending.clone())?;
        }
        Ok(server)
    }

    /// Shows new connections this certificate from now on.
    pub fn renew(&self, certificate: Certificate) {
        *self.shared.tls.write() = Some(acceptor(certificate));
    }

    /// Ends the server: refuses new connections, lets calls under way finish.
    pub fn end(mut self) {
        self.stop();
    }

    fn listen(&self, listener: TcpListener, serves: Serves, end: watch::Receiver<bool>) -> io::Result<()> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        listener.set_nonblocking(true)?;
        let _entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        runtime.spawn(connection::accept(Arc::clone(&self.shared), listener, serves, end));
        Ok(())
    }

    fn stop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.end.send_replace(true);
        let deadline = Instant::now() + END_TIME;
        // Every connection and every listener has a receiver.
        let ended = runtime.block_on(async { tokio::time::timeout(END_TIME, self.end.closed()).await });
        if ended.is_err() {
            tracing::warn!("calls to the key service over the network were cut short");
        }
        // Calls whose clients have left go on; whoever ends the server wants the store for itself.
        runtime.shutdown_timeout(deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
    }
}

impl Listeners {
    /// Whether they may be listened on.
    ///
    /// # Errors
    /// [`HttpError::NeedsTls`] for one that others can reach, without a certificate.
    pub fn check(&self, has_certificate: bool) -> Result<(), HttpError> {
        for listener in &self.calls {
            let address = listener.local_addr()?;
            if !has_certificate && !is_loopback(address) {
                return Err(HttpError::NeedsTls(address));
            }
        }
        Ok(())
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn acceptor(certificate: Certificate) -> TlsAcceptor {
    TlsAcceptor::from(certificate.into_config())
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}
