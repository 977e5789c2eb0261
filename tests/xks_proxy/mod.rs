//! A proxy of an external key store, and the key manager behind it: AWS's API with AES-256-GCM, keys of its
//! own, and moods. It believes nobody whose signature is not right.
#![allow(dead_code, clippy::unwrap_used, reason = "every test program includes it and uses a part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::BASE64;
use jiff::Timestamp;
use kmsfs::clock::Clock;
use kmsfs::sigv4::{Claim, Head, Scope};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const ACCESS_KEY_ID: &str = "ABCDEFGHIJ2345672345";
pub(crate) const SECRET: &str = "c2VjcmV0IGFjY2VzcyBrZXkgb2YgdGhlIHByb3h5IDE=";
pub(crate) const PATH: &str = "/tests/kms/xks/v1";
const API: &str = "/kms/xks/v1";
const SCOPE: Scope<'_> = Scope { region: "local", service: "kms-xks-proxy" };
const TAG_LEN: usize = 16;

/// How a proxy feels today.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// Answers after a while.
    Slow(Duration),
    /// Takes requests and never answers.
    Silent,
    /// Answers a byte at a time.
    Dripping,
    /// Ends connections instead of answering.
    HangsUp,
    /// Ends a connection after each answer, as if it had been restarted.
    Forgets,
    /// Refuses everything with this status and name.
    Refuses(u16, &'static str),
    /// Answers everything with this status and body.
    Says(u16, String),
    /// Members of its answers that are replaced.
    Lies(Value),
    /// Encrypts something else than it is given, and vouches for it.
    EncryptsOther,
    /// Decrypts to something else.
    DecryptsOther,
    /// All key managers behind it are gone.
    WithoutManagers,
}

/// A key of the key manager.
#[derive(Clone)]
pub(crate) struct ExternalKey {
    bytes: [u8; 32],
    pub(crate) spec: &'static str,
    pub(crate) usage: Vec<&'static str>,
    pub(crate) status: &'static str,
}

/// A request that it believed.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// A running proxy. Ends when dropped.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Without one it believes whatever time a request says that it is.
    clock: Option<Arc<dyn Clock>>,
    tls: Option<Arc<ServerConfig>>,
    state: Mutex<State>,
}

struct State {
    mood: Mood,
    secret: String,
    keys: BTreeMap<String, ExternalKey>,
    seen: Vec<Seen>,
    connections: Vec<TcpStream>,
    accepted: usize,
    ended: bool,
}

impl Default for ExternalKey {
    fn default() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        Self { bytes, spec: "AES_256", usage: vec!["DECRYPT", "ENCRYPT", "WRAP"], status: "ENABLED" }
    }
}

impl Proxy {
    /// On a free port of this machine, with the external keys `one`, `two` and `three`.
    pub(crate) fn start(clock: Arc<dyn Clock>) -> Self {
        Self::begin(Some(clock), None)
    }

    /// For whoever has several clocks.
    pub(crate) fn timeless() -> Self {
        Self::begin(None, None)
    }

    pub(crate) fn start_with(clock: Arc<dyn Clock>, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::begin(Some(clock), tls)
    }

    fn begin(clock: Option<Arc<dyn Clock>>, tls: Option<Arc<ServerConfig>>) -> Self {
        let keys = ["one", "two", "three"].map(|name| (name.to_owned(), ExternalKey::default()));
        let state = State {
            mood: Mood::Well,
            secret: SECRET.to_owned(),
            keys: keys.into(),
            seen: Vec::new(),
            connections: Vec::new(),
            accepted: 0,
            ended: false,
        };
        let scheme = if tls.is_some() { "https://localhost" } else { "http://127.0.0.1" };
        let shared = Arc::new(Shared { clock, tls, state: Mutex::new(state) });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, Arc::clone(&shared));
        Self { endpoint: format!("{scheme}:{}", address.port()), address, shared }
    }

    pub(crate) fn feel(&self, mood: Mood) {
        self.shared.state.lock().unwrap().mood = mood;
    }

    /// From now on requests must be signed with another secret.
    pub(crate) fn demand(&self, secret: &str) {
        self.shared.state.lock().unwrap().secret = secret.to_owned();
    }

    pub(crate) fn key(&self, name: &str, change: impl FnOnce(&mut ExternalKey)) {
        change(self.shared.state.lock().unwrap().keys.entry(name.to_owned()).or_default());
    }

    pub(crate) fn lose_key(&self, name: &str) {
        self.shared.state.lock().unwrap().keys.remove(name);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.state.lock().unwrap().accepted
    }

    /// Stops listening and ends all connections.
    pub(crate) fn die(&self) {
        let connections = {
            let mut state = self.shared.state.lock().unwrap();
            state.ended = true;
            std::mem::take(&mut state.connections)
        };
        // The listener is let go of when it sees this one.
        drop(TcpStream::connect(self.address));
        connections.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        let gone = || TcpStream::connect(self.address).is_err();
        for _ in 0..200 {
            if gone() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the proxy still listens");
    }

    /// Comes back where it was.
    pub(crate) fn revive(&self) {
        self.shared.state.lock().unwrap().ended = false;
        serve(TcpListener::bind(self.address).unwrap(), Arc::clone(&self.shared));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if !self.shared.state.lock().unwrap().ended && !thread::panicking() {
            self.die();
        }
    }
}

fn serve(listener: TcpListener, shared: Arc<Shared>) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            {
                let mut state = shared.state.lock().unwrap();
                if state.ended {
                    return;
                }
                state.accepted += 1;
                state.connections.push(stream.try_clone().unwrap());
            }
            let shared = Arc::clone(&shared);
            let ending = stream.try_clone().unwrap();
            thread::spawn(move || {
                match &shared.tls {
                    None => converse(stream, &shared),
                    Some(config) => {
                        let session = ServerConnection::new(Arc::clone(config)).unwrap();
                        converse(StreamOwned::new(session, stream), &shared);
                    }
                }
                // There are more handles to it.
                drop(ending.shutdown(Shutdown::Both));
            });
        }
    });
}

/// Answers requests until the connection ends.
fn converse(mut stream: impl Read + Write, shared: &Shared) {
    while let Some((head, body)) = read_request(&mut stream) {
        let mood = shared.state.lock().unwrap().mood.clone();
        let (status, answer) = match &mood {
            Mood::HangsUp => return,
            Mood::Silent => {
                // Until the other side gives up.
                drop(stream.read(&mut [0]));
                return;
            }
            Mood::Says(status, body) => (*status, body.clone()),
            _ => {
                let (status, answer) = shared.answer(&head, &body, &mood);
                (status, answer.to_string())
            }
        };
        if let Mood::Slow(time) = mood {
            thread::sleep(time);
        }
        let text = format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
        let written = if mood == Mood::Dripping {
            text.bytes().try_for_each(|byte| {
                thread::sleep(Duration::from_millis(20));
                stream.write_all(&[byte]).and_then(|()| stream.flush())
            })
        } else {
            stream.write_all(text.as_bytes()).and_then(|()| stream.flush())
        };
        if written.is_err() || mood == Mood::Forgets {
            return;
        }
    }
}

fn read_request(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let len =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; len.unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn refusal(status: u16, name: &str) -> (u16, Value) {
    (status, json!({ "errorName": name, "errorMessage": "as it likes" }))
}

impl Shared {
    fn answer(&self, head: &str, body: &[u8], mood: &Mood) -> (u16, Value) {
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let headers: Vec<(String, &str)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value))
            .collect();
        let mut state = self.state.lock().unwrap();
        let believed = Head {
            method,
            path,
            query: "",
            headers: headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
        };
        if !is_believed(&believed, body, &state.secret, self.clock.as_deref()) {
            return refusal(401, "AuthenticationFailedException");
        }
        assert_eq!(method, "POST");
        let body: Value = serde_json::from_slice(body).unwrap();
        state.seen.push(Seen { path: path.to_owned(), body: body.clone() });
        if let Mood::Refuses(status, name) = mood {
            return refusal(*status, name);
        }
        // It has many customers, whose names begin alike.
        let known = path.split_once(API).filter(|(before, _)| before.starts_with("/tests"));
        let Some((_, rest)) = known else { return refusal(404, "InvalidUriPathException") };
        let (status, mut answer) = match rest.split('/').collect::<Vec<_>>()[..] {
            ["", "health"] => (200, health(mood)),
            ["", "keys", key, operation] => match state.keys.get(key) {
                None => refusal(404, "KeyNotFoundException"),
                Some(key) => key.answer(operation, &body, mood),
            },
            _ => refusal(404, "InvalidUriPathException"),
        };
        if let Mood::Lies(Value::Object(lies)) = mood {
            for (member, lie) in lies {
                answer[member] = lie.clone();
            }
        }
        (status, answer)
    }
}

fn is_believed(head: &Head<'_>, body: &[u8], secret: &str, clock: Option<&dyn Clock>) -> bool {
    let now = clock.map_or_else(|| said(head), Clock::now);
    let digest = Sha256::digest(body).into();
    let claim = Claim::read(head).and_then(|claim| {
        claim.check(SCOPE, now)?;
        claim.verify(head, &digest, secret)?;
        Ok(claim)
    });
    claim.is_ok_and(|claim| claim.access_key_id() == ACCESS_KEY_ID)
}

/// The time that a request says that it is.
fn said(head: &Head<'_>) -> Timestamp {
    let date = head.headers.iter().find(|(name, _)| *name == "x-amz-date").unwrap().1;
    let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).unwrap();
    date.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
}

fn health(mood: &Mood) -> Value {
    let status = if *mood == Mood::WithoutManagers { "UNAVAILABLE" } else { "ACTIVE" };
    json!({
        "xksProxyFleetSize": 1,
        "xksProxyVendor": "kmsfs",
        "xksProxyModel": "for tests",
        "ekmVendor": "kmsfs",
        "ekmFleetDetails": [{ "id": "1", "model": "for tests", "healthStatus": status }],
    })
}

impl ExternalKey {
    fn answer(&self, operation: &str, body: &Value, mood: &Mood) -> (u16, Value) {
        if operation == "metadata" {
            let facts = json!({ "keySpec": self.spec, "keyUsage": self.usage, "keyStatus": self.status });
            return (200, facts);
        }
        if self.status != "ENABLED" {
            return refusal(400, "InvalidStateException");
        }
        assert_eq!(body["encryptionAlgorithm"], "AES_GCM");
        let aad = bytes(&body["additionalAuthenticatedData"]);
        match operation {
            "encrypt" => (200, self.encrypt(body, &aad, mood)),
            "decrypt" => match self.decrypt(body, &aad) {
                Some(mut plaintext) => {
                    if *mood == Mood::DecryptsOther {
                        plaintext[20] ^= 1;
                    }
                    (200, json!({ "plaintext": BASE64.encode(&plaintext) }))
                }
                None => refusal(400, "InvalidCiphertextException"),
            },
            _ => refusal(404, "InvalidUriPathException"),
        }
    }

    fn encrypt(&self, body: &Value, aad: &[u8], mood: &Mood) -> Value {
        assert_eq!(body["ciphertextDataIntegrityValueAlgorithm"], "SHA_256");
        let mut sealed = bytes(&body["plaintext"]);
        if *mood == Mood::EncryptsOther {
            sealed[20] ^= 1;
        }
        let metadata = b"key_version=1";
        let mut iv = [0; NONCE_LEN];
        getrandom::fill(&mut iv).unwrap();
        let nonce = Nonce::assume_unique_for_key(iv);
        self.cipher().seal_in_place_append_tag(nonce, Aad::from(bound(aad, metadata)), &mut sealed).unwrap();
        let tag = sealed.split_off(sealed.len() - TAG_LEN);
        let vouched = Sha256::digest([aad, metadata, &iv, &sealed, &tag].concat());
        json!({
            "ciphertext": BASE64.encode(&sealed),
            "ciphertextMetadata": BASE64.encode(metadata),
            "initializationVector": BASE64.encode(&iv),
            "authenticationTag": BASE64.encode(&tag),
            "ciphertextDataIntegrityValue": BASE64.encode(&vouched),
        })
    }

    fn decrypt(&self, body: &Value, aad: &[u8]) -> Option<Vec<u8>> {
        let metadata = bytes(&body["ciphertextMetadata"]);
        let nonce = Nonce::try_assume_unique_for_key(&bytes(&body["initializationVector"])).ok()?;
        let mut sealed = [bytes(&body["ciphertext"]), bytes(&body["authenticationTag"])].concat();
        let opened = self.cipher().open_in_place(nonce, Aad::from(bound(aad, &metadata)), &mut sealed);
        opened.ok().map(|plaintext| plaintext.to_vec())
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.bytes).unwrap())
    }
}

/// What the specification has a proxy authenticate.
fn bound(aad: &[u8], metadata: &[u8]) -> Vec<u8> {
    let lens = (u16::try_from(aad.len()).unwrap().to_be_bytes(), u8::try_from(metadata.len()).unwrap());
    [&lens.0[..], aad, &[lens.1], metadata].concat()
}

fn bytes(member: &Value) -> Vec<u8> {
    BASE64.decode(member.as_str().unwrap_or_default().as_bytes()).unwrap()
}
