//! One request: who sends it, what it asks for, and the key service's answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Shared;
use super::answer::{AMZ_JSON, Body, Refusal, page, to_call};
use super::pace::{Busy, Phase, REQUEST_TIME};
use super::refusals::Disbelieved;
use crate::kms::wire::{self, TRENT};
use crate::kms::{Operation, Remote};
use crate::sigv4::{AuthError, AuthKind, Claim, Head, Scope};

/// Longest body of a request; the key service's own limits are far below.
pub(super) const MAX_BODY: usize = 1 << 20;
/// Most of a refused request's body that is read, so that the refusal reaches the sender.
const MAX_DISCARDED: usize = 16 << 20;
/// How long reading what is discarded may take.
const DISCARD_TIME: Duration = Duration::from_secs(5);
/// Longest name of a program that is kept.
const MAX_AGENT: usize = 256;
const TARGET: &str = "x-amz-target";
/// The operation of the metrics when a request names none.
const NO_OPERATION: &str = "none";

/// What is known of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) secure: bool,
    /// Whether it may see the pages for whoever watches over the service.
    pub(super) sees_pages: bool,
    /// Whether it may call operations.
    pub(super) may_call: bool,
    pub(super) phase: Phase,
}

/// Answers a request, whatever it is.
pub(super) async fn answer(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let busy = peer.phase.busy();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        "/healthz" if is_read && peer.sees_pages => health(&shared).await,
        "/metrics" if is_read && peer.sees_pages => metrics(&shared).await,
        _ => call(&shared, &peer, request, busy).await,
    })
}

async fn health(shared: &Arc<Shared>) -> Response<Body> {
    let asked = Arc::clone(shared);
    match shared.workers.run(false, move || asked.service.keys_by_state()).await {
        Ok(_) => page(StatusCode::OK, "ok\n".to_owned()),
        Err(_) => {
            page(StatusCode::SERVICE_UNAVAILABLE, "the key service does not answer in time\n".to_owned())
        }
    }
}

async fn metrics(shared: &Arc<Shared>) -> Response<Body> {
    let asked = Arc::clone(shared);
    let read = move || (asked.service.keys_by_state(), asked.service.watchers());
    match shared.workers.run(false, read).await {
        Ok((keys, mounts)) => page(StatusCode::OK, shared.metrics.render(&keys, mounts)),
        Err(_) => {
            page(StatusCode::SERVICE_UNAVAILABLE, "the key service does not answer in time\n".to_owned())
        }
    }
}

async fn call(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: Request<Incoming>,
    mut busy: Busy,
) -> Response<Body> {
    let start = Instant::now();
    let id = request_id();
    // Named by the metrics even if the request is refused; unknown names would fill them.
    let operation = operation(request.headers());
    let result = respond(shared, peer, request, &mut busy).await;
    let name = result.as_ref().map_or_else(|refusal| refusal.kind, |_| "ok");
    shared.metrics.answered(operation.map_or(NO_OPERATION, Operation::name), name, start.elapsed());
    to_call(&id, result, busy)
}

async fn respond(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: Request<Incoming>,
    busy: &mut Busy,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let (parts, body) = request.into_parts();
    if !peer.may_call || parts.method != Method::POST || parts.uri.path() != "/" {
        discard(body).await;
        return Err(Refusal::not_found());
    }
    let head = Head {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
    };
    // Before the body is there: nobody unknown gets to have it stored.
    let claim = match claim(shared, &head) {
        Ok(claim) => claim,
        Err(error) => {
            discard(body).await;
            return Err(disbelieved(shared, peer, &parts.headers, None, error).await);
        }
    };
    let body = read(body).await?;
    let proven = match prove(shared, &claim, &head, &body) {
        Ok(user) => user,
        Err(error) => return Err(disbelieved(shared, peer, &parts.headers, Some(&claim), error).await),
    };
    busy.welcome();
    let target = target(&parts.headers)?;
    let mut parameters = parse(&body)?;
    drop(body);
    let remote = Remote {
        user: proven,
        access_key_id: claim.access_key_id().to_owned(),
        address: peer.address,
        secure: peer.secure,
    };
    let mut caller = shared.process.clone();
    caller.remote = Some(remote);
    caller.program = agent(&parts.headers);
    let changes = target.changes;
    let asked = Arc::clone(shared);
    let work = move || {
        let result = wire::dispatch(&asked.service, &caller, &target.name, &parameters);
        wire::wipe(&mut parameters);
        result.map(|mut answer| {
            let bytes = to_bytes(&answer);
            wire::wipe(&mut answer);
            bytes
        })
    };
    Ok(shared.workers.run(changes, work).await??)
}

/// What the request claims, if it can be right.
fn claim(shared: &Shared, head: &Head<'_>) -> Result<Claim, AuthError> {
    let claim = Claim::read(head)?;
    if shared.service.access_key(claim.access_key_id()).is_none() {
        return Err(AuthError::unrecognized());
    }
    let scope = Scope { region: &shared.service.realm().region, service: "kms" };
    claim.check(scope, shared.clock.now())?;
    Ok(claim)
}

/// The user whose access key signed the request.
fn prove(shared: &Shared, claim: &Claim, head: &Head<'_>, body: &[u8]) -> Result<String, AuthError> {
    // Looked up again: it may have been disabled while the body came.
    let key = shared.service.access_key(claim.access_key_id()).ok_or_else(AuthError::unrecognized)?;
    claim.verify(head, &Sha256::digest(body).into(), &key.secret)?;
    let changes = head
        .headers
        .iter()
        .find(|(name, _)| *name == TARGET)
        .and_then(|(_, target)| known(target))
        .is_none_or(Operation::writes_store);
    if !shared.replays.may_use(changes, claim.fingerprint(), shared.clock.now()) {
        shared.metrics.replayed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let message = "Signature already used: sign the request again to repeat it.";
        return Err(AuthError::new(AuthKind::Invalid, message));
    }
    Ok(key.user)
}

async fn disbelieved(
    shared: &Arc<Shared>,
    peer: &Peer,
    headers: &HeaderMap,
    claim: Option<&Claim>,
    error: AuthError,
) -> Refusal {
    tracing::debug!(address = %peer.address, %error, "a request was not believed");
    shared.metrics.rejected(error.kind);
    if shared.refusals.may_log(shared.clock.now()) {
        let refused = Disbelieved {
            peer: peer.clone(),
            operation: operation(headers).map_or("Unknown", Operation::name),
            access_key_id: claim.map(|claim| claim.access_key_id().to_owned()),
            agent: agent(headers),
            error: error.clone(),
        };
        let logging = Arc::clone(shared);
        // It is refused whether it could be logged or not.
        let _ = shared.workers.run(false, move || refused.log(&logging.service)).await;
    }
    error.into()
}

/// The operation that a request asks for.
struct Target {
    name: String,
    changes: bool,
}

fn target(headers: &HeaderMap) -> Result<Target, Refusal> {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
    let kind = kind.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    if !kind.eq_ignore_ascii_case(AMZ_JSON.as_bytes()) {
        return Err(Refusal::unknown_operation("the content type of requests is application/x-amz-json-1.1"));
    }
    // The store's own operations are for the machine that it is on.
    let operation = operation(headers);
    let operation =
        operation.ok_or_else(|| Refusal::unknown_operation("X-Amz-Target names no operation of AWS KMS"))?;
    Ok(Target { name: format!("{TRENT}{operation}"), changes: operation.writes_store() })
}

fn operation(headers: &HeaderMap) -> Option<Operation> {
    known(headers.get(TARGET)?.as_bytes())
}

fn known(target: &[u8]) -> Option<Operation> {
    std::str::from_utf8(target).ok()?.strip_prefix(TRENT)?.parse().ok()
}

fn parse(body: &[u8]) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    match serde_json::from_slice(body) {
        Ok(parameters @ Value::Object(_)) => Ok(parameters),
        Ok(_) => Err(Refusal::not_json("the body of a request is a JSON object")),
        // Where it stops being JSON, and nothing of what it says.
        Err(error) => {
            let message = format!("not JSON at line {} column {}", error.line(), error.column());
            Err(Refusal::not_json(&message))
        }
    }
}

/// The whole body, in time and within its limit.
async fn read(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let announced = body.size_hint().lower();
    if announced > MAX_BODY as u64 {
        discard(body).await;
        return Err(Refusal::too_large());
    }
    let collecting = async {
        // Reserved at once, for growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(announced as usize));
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Err(Refusal::cut_short()) };
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(Refusal::too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    match timeout(REQUEST_TIME, collecting).await {
        Ok(Err(refusal)) if refusal.status == StatusCode::PAYLOAD_TOO_LARGE => {
            discard(body).await;
            Err(refusal)
        }
        Ok(done) => done,
        Err(_elapsed) => Err(Refusal::too_slow()),
    }
}

/// Takes what a refused request still sends: whoever is cut off while sending never sees the answer.
async fn discard(mut body: Incoming) {
    let reading = async {
        let mut left = MAX_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, |data| data.len())) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // The answer follows in either case.
    let _ = timeout(DISCARD_TIME, reading).await;
}

fn to_bytes(answer: &Value) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    // Writing a value to memory cannot fail.
    let _ = serde_json::to_writer(&mut *bytes, answer);
    bytes
}

/// What the client calls itself, fit to be logged.
fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    agent.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_AGENT).collect()
}

/// A random UUID, as AWS numbers its answers.
fn request_id() -> String {
    let mut bytes = [0; 16];
    // Without random numbers no call succeeds; its number is the least of the troubles then.
    let _ = getrandom::fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
