//! Answers in the shapes of the AWS JSON 1.1 protocol.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::pace::Busy;
use super::workers::NoResult;
use crate::kms::{ErrorKind, KmsError};
use crate::sigv4::AuthError;

/// Type of the bodies of requests and answers.
pub(super) const AMZ_JSON: &str = "application/x-amz-json-1.1";

/// A body that is zeroized when it has been sent.
pub(super) type Body = Full<Bytes>;

/// A request that got no result: an exception of AWS's.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The exception's name.
    pub(super) kind: &'static str,
    body: Value,
    /// What comes next on the connection could be anything.
    pub(super) hangs_up: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: &str) -> Self {
        let body = json!({ "__type": kind, "message": message });
        Self { status, kind, body, hangs_up: false }
    }

    fn hanging_up(mut self) -> Self {
        self.hangs_up = true;
        self
    }

    pub(super) fn unknown_operation(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "UnknownOperationException", message)
    }

    pub(super) fn not_found() -> Self {
        let message = "the key service answers POST / with a target";
        Self::new(StatusCode::NOT_FOUND, "UnknownOperationException", message)
    }

    pub(super) fn not_json(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "SerializationException", message)
    }

    pub(super) fn too_large() -> Self {
        let message = "the body of a request is at most 1 MiB long";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException", message).hanging_up()
    }

    pub(super) fn too_slow() -> Self {
        let message = "the body of the request did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", message).hanging_up()
    }

    pub(super) fn cut_short() -> Self {
        Self::not_json("the body of the request ended early").hanging_up()
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.kind.name(), &error.message)
    }
}

impl From<NoResult> for Refusal {
    fn from(why: NoResult) -> Self {
        match why {
            NoResult::Busy => Self::new(
                StatusCode::BAD_REQUEST,
                "ThrottlingException",
                "Rate exceeded: all workers are busy",
            ),
            NoResult::Slow => KmsError::new(
                ErrorKind::DependencyTimeout,
                "The system timed out while trying to fulfill the request. It may still be carried out.",
            )
            .into(),
            NoResult::Broken => {
                KmsError::new(ErrorKind::Internal, "the request failed; the log of the key service says why")
                    .into()
            }
        }
    }
}

impl From<KmsError> for Refusal {
    fn from(error: KmsError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, kind: error.kind().name(), body: error.to_wire(), hangs_up: false }
    }
}

/// The answer to a call; `busy` ends when it has been handed over.
pub(super) fn to_call(id: &str, result: Result<Zeroizing<Vec<u8>>, Refusal>, busy: Busy) -> Response<Body> {
    let (status, kind, bytes, hangs_up) = match result {
        Ok(bytes) => (StatusCode::OK, None, bytes, false),
        Err(refusal) => {
            let bytes = Zeroizing::new(refusal.body.to_string().into_bytes());
            (refusal.status, Some(refusal.kind), bytes, refusal.hangs_up)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from_owner(Sent { bytes, _busy: busy })));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(AMZ_JSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-amzn-requestid", id);
    }
    if let Some(kind) = kind {
        headers.insert("x-amzn-errortype", HeaderValue::from_static(kind));
    }
    if hangs_up {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A page of text for whoever watches over the service.
pub(super) fn page(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer's bytes on their way.
struct Sent {
    bytes: Zeroizing<Vec<u8>>,
    _busy: Busy,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
