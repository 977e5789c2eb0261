//! Connections to a proxy, and one request with its answer.
//!
//! Connections are kept for a while. One that breaks before an answer came is replaced by another, once:
//! all calls may be repeated. All of it together ends within [`CALL_TIME`].

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{Address, CALL_TIME, ProxyError, Trust};
use crate::sigv4::Signed;
use crate::sync::Mutex;

/// Longest answer in bytes: several times that of the longest ciphertext.
const MAX_ANSWER: usize = 64 * 1024;
/// Connections that are kept.
const MAX_IDLE: usize = 8;
/// How long one is kept. Shorter than proxies and what is before them usually wait.
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Threads for names that have to be looked up, which can hang.
const LOOKUP_THREADS: usize = 4;

type Connection = SendRequest<Full<Bytes>>;

/// What drives connections: a thread that is started when it is first needed.
#[derive(Debug, Default)]
pub struct Network(OnceLock<Option<Runtime>>);

impl Network {
    fn runtime(&self) -> Option<&Runtime> {
        let start = || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).max_blocking_threads(LOOKUP_THREADS).thread_name("kms-proxy");
            builder
                .enable_io()
                .enable_time()
                .build()
                .inspect_err(|error| tracing::error!(%error, "no network"))
                .ok()
        };
        self.0.get_or_init(start).as_ref()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nobody waits for a name that is still being looked up.
        if let Some(Some(runtime)) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One proxy's connections.
pub(super) struct Transport {
    network: Arc<Network>,
    address: Address,
    trust: Trust,
    /// Made when it is first needed.
    tls: OnceLock<Option<Arc<ClientConfig>>>,
    /// The one that was used last is used next.
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// How a call failed, and whether another connection may help.
struct Failure {
    error: ProxyError,
    is_broken: bool,
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Self { error, is_broken: false }
    }
}

impl Transport {
    pub(super) fn new(network: Arc<Network>, address: Address, trust: Trust) -> Self {
        Self { network, address, trust, tls: OnceLock::new(), idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Posts `body` to `path`; the answer's status and body.
    pub(super) fn post(
        &self,
        path: &str,
        signed: &Signed,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), ProxyError> {
        let runtime = self.network.runtime().ok_or(ProxyError::Unreachable)?;
        let body = Bytes::from_owner(body);
        runtime.block_on(async {
            let answered = timeout(CALL_TIME, self.exchange(path, signed, body)).await;
            answered.unwrap_or(Err(ProxyError::TimedOut))
        })
    }

    async fn exchange(
        &self,
        path: &str,
        signed: &Signed,
        body: Bytes,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), ProxyError> {
        let request = || self.request(path, signed, body.clone());
        let kept = self.take_idle();
        let first = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        match self.send(first, request()?).await {
            Err(Failure { is_broken: true, .. }) => {}
            result => return result.map_err(|failure| failure.error),
        }
        // What broke one is likely to have broken all that lay there.
        self.idle.lock().clear();
        let fresh = self.connect().await?;
        self.send(fresh, request()?).await.map_err(|failure| failure.error)
    }

    fn request(&self, path: &str, signed: &Signed, body: Bytes) -> Result<Request<Full<Bytes>>, ProxyError> {
        Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.address.authority)
            .header(CONTENT_TYPE, "application/json")
            .header("x-amz-date", &signed.date)
            .header(AUTHORIZATION, &signed.authorization)
            .body(Full::new(body))
            .map_err(|_| ProxyError::Malformed)
    }

    async fn send(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), Failure> {
        let broken = |error: hyper::Error| match error.is_parse() || error.is_parse_too_large() {
            true => Failure { error: ProxyError::Malformed, is_broken: false },
            false => Failure { error: ProxyError::Unreachable, is_broken: true },
        };
        connection.ready().await.map_err(broken)?;
        let response = connection.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = read(response).await?;
        self.keep(connection);
        Ok((status, body))
    }

    async fn connect(&self) -> Result<Connection, ProxyError> {
        let stream =
            timeout(CALL_TIME * 3 / 4, self.reach()).await.map_err(|_| ProxyError::Unreachable)??;
        if !self.address.is_https {
            return handshake(stream).await;
        }
        let config = self.tls.get_or_init(|| self.trust.config()).clone().ok_or(ProxyError::Tls)?;
        let name = ServerName::try_from(self.address.host.clone()).map_err(|_| ProxyError::Tls)?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            tracing::debug!(host = self.address.host, %error, "no TLS with an external key store proxy");
            ProxyError::Tls
        })?;
        handshake(stream).await
    }

    async fn reach(&self) -> Result<TcpStream, ProxyError> {
        let unreachable = |error: std::io::Error| {
            tracing::debug!(host = self.address.host, %error, "an external key store proxy cannot be reached");
            ProxyError::Unreachable
        };
        let found =
            lookup_host((self.address.host.as_str(), self.address.port)).await.map_err(unreachable)?;
        let mut result = Err(ProxyError::Unreachable);
        for address in found.filter(|found| self.address.may_be_at(found.ip())) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(unreachable)?;
                    return Ok(stream);
                }
                Err(error) => result = Err(unreachable(error)),
            }
        }
        result
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        idle.retain(|(connection, since)| !connection.is_closed() && since.elapsed() < IDLE_TIME);
        idle.pop().map(|(connection, _)| connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE && !connection.is_closed() {
            idle.push((connection, Instant::now()));
        }
    }
}

/// Never shows what the connections carry.
impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn handshake<S>(stream: S) -> Result<Connection, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| ProxyError::Unreachable)?;
    // Ends with the sender; what breaks it, the sender is told.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn read(response: Response<Incoming>) -> Result<Zeroizing<Vec<u8>>, ProxyError> {
    let mut body = Limited::new(response.into_body(), MAX_ANSWER);
    // Room for any answer, so that no copies are left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ProxyError::Malformed)?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}
