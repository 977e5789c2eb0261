//! A server on a store of its own, and a client that can misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::{HttpServer, Listeners};
use crate::clock::{Clock, ManualClock};
use crate::kms::api::{CreateAccessKeyRequest, UpdateAccessKeyRequest};
use crate::kms::audit;
use crate::kms::{Caller, Costs, Service, StoreOptions, UnlockSecret};
use crate::secret::Passphrase;
use crate::sigv4::{Claim, Head};

pub(super) struct World {
    pub(super) service: Arc<Service>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) signer: Signer,
    server: Option<HttpServer>,
    calls: SocketAddr,
    pages: Option<SocketAddr>,
    dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        Self::start(false)
    }

    /// With a listener for the pages alone.
    pub(super) fn with_pages() -> Self {
        Self::start(true)
    }

    fn start(with_pages: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()));
        let service = create(dir.path(), clock.clone());
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let calls = bind();
        let pages = with_pages.then(bind);
        let (calls_at, pages_at) =
            (calls.local_addr().unwrap(), pages.as_ref().map(|p| p.local_addr().unwrap()));
        let listeners = Listeners { calls: vec![calls], pages: pages.into_iter().collect() };
        let server = HttpServer::start(Arc::clone(&service), clock.clone(), listeners, None).unwrap();
        let signer = signer(&service, &clock, "root");
        Self { service, clock, signer, server: Some(server), calls: calls_at, pages: pages_at, dir }
    }

    pub(super) fn stream(&self) -> TcpStream {
        connect(self.calls)
    }

    pub(super) fn connect(&self) -> Client {
        Client { stream: self.stream() }
    }

    pub(super) fn connect_to_pages(&self) -> Client {
        Client { stream: connect(self.pages.unwrap()) }
    }

    /// A signer for another user.
    pub(super) fn signer_of(&self, user: &str) -> Signer {
        signer(&self.service, &self.clock, user)
    }

    pub(super) fn set_status(&self, status: &str) {
        let request =
            UpdateAccessKeyRequest { access_key_id: self.signer.id.clone(), status: status.to_owned() };
        self.service.update_access_key(&Caller::current(), &request).unwrap();
    }

    /// All lines of the audit log so far.
    pub(super) fn audit_log(&self) -> String {
        self.service.flush_audit().unwrap();
        let segments = std::fs::read_dir(self.dir.path().join(audit::DIRECTORY)).unwrap();
        let texts = segments.filter_map(|entry| std::fs::read(entry.unwrap().path()).ok());
        texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }

    pub(super) fn end(&mut self) {
        self.server.take().unwrap().end();
    }
}

fn create(dir: &Path, clock: Arc<ManualClock>) -> Arc<Service> {
    let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
    let options = StoreOptions { costs, ..StoreOptions::default() };
    let secret = UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()));
    Service::create(dir, &secret, &options, clock).unwrap()
}

fn signer(service: &Service, clock: &Arc<ManualClock>, user: &str) -> Signer {
    let request = CreateAccessKeyRequest { user_name: user.to_owned(), ..CreateAccessKeyRequest::default() };
    let made = service.create_access_key(&Caller::current(), &request).unwrap();
    Signer {
        id: made.access_key.access_key_id,
        secret: made.secret_access_key.to_string(),
        region: "local".to_owned(),
        service: "kms".to_owned(),
        clock: Arc::clone(clock),
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Signs requests, by the server's own arithmetic.
#[derive(Clone)]
pub(super) struct Signer {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) region: String,
    pub(super) service: String,
    pub(super) clock: Arc<ManualClock>,
}

impl Signer {
    pub(super) fn request(&self, operation: &str, body: &[u8]) -> Vec<u8> {
        self.request_to(&format!("TrentService.{operation}"), "application/x-amz-json-1.1", body)
    }

    pub(super) fn request_to(&self, target: &str, kind: &str, body: &[u8]) -> Vec<u8> {
        let head = self.head(target, kind, body);
        [format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    }

    /// The same, without saying beforehand how long the body is.
    pub(super) fn chunked(&self, operation: &str, body: &[u8]) -> Vec<u8> {
        let head = self.head(&format!("TrentService.{operation}"), "application/x-amz-json-1.1", body);
        let mut request = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
        for chunk in body.chunks(64 * 1024) {
            request.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend(chunk);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        request
    }

    pub(super) fn unsigned(operation: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: h\r\nx-amz-target: TrentService.{operation}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    fn head(&self, target: &str, kind: &str, body: &[u8]) -> String {
        let date = self.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let signed = "content-type;host;x-amz-date;x-amz-target";
        let authorization = |signature: &str| {
            let (id, day, region, service) = (&self.id, &date[..8], &self.region, &self.service);
            format!(
                "AWS4-HMAC-SHA256 Credential={id}/{day}/{region}/{service}/aws4_request, SignedHeaders={signed}, Signature={signature}"
            )
        };
        let headers =
            [("content-type", kind), ("host", "h"), ("x-amz-date", &date), ("x-amz-target", target)];
        let unsigned = authorization(&"0".repeat(64));
        let with_authorization = headers.iter().copied().chain([("authorization", unsigned.as_str())]);
        let head = Head {
            method: "POST",
            path: "/",
            query: "",
            headers: with_authorization.map(|(name, value)| (name, value.as_bytes())).collect(),
        };
        let signature = Claim::read(&head).unwrap().sign(&head, &Sha256::digest(body).into(), &self.secret);
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let authorization = authorization(&data_encoding::HEXLOWER.encode(&signature));
        format!("POST / HTTP/1.1\r\n{lines}authorization: {authorization}\r\n")
    }
}

/// One connection.
pub(super) struct Client {
    pub(super) stream: TcpStream,
}

impl Client {
    pub(super) fn call(&mut self, signer: &Signer, operation: &str, body: &Value) -> Answer {
        self.send(&signer.request(operation, body.to_string().as_bytes()))
    }

    pub(super) fn send(&mut self, request: &[u8]) -> Answer {
        self.stream.write_all(request).unwrap();
        Answer::read(&mut self.stream)
    }
}

pub(super) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").into_bytes()
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) text: String,
    /// Null when it is no JSON.
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn read(stream: &mut TcpStream) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let mut answer = Self {
            head: String::from_utf8(head).unwrap(),
            status: 0,
            text: String::new(),
            body: Value::Null,
        };
        answer.status = answer.head[9..12].parse().unwrap();
        let mut body = vec![0; answer.header("content-length").parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        answer.body = serde_json::from_slice(&body).unwrap_or_default();
        answer.text = String::from_utf8(body).unwrap();
        answer
    }

    /// The value of a header, which must be there.
    pub(super) fn header(&self, name: &str) -> &str {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(known, _)| *known == name).map(|(_, value)| value).next().unwrap()
    }

    pub(super) fn error(&self) -> &str {
        self.body["__type"].as_str().unwrap_or_default()
    }
}
