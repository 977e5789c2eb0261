//! The key service as its callers see it: in process, over the Unix socket, and over HTTP with every
//! request signed; one client and several. Prints calls a second and the time of a call at the 50th and
//! 99th percentile.
//!
//! `cargo bench --bench kms`; KMSFS_BENCH_SECONDS says how long each line is measured.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot start should stop")]
#![allow(clippy::print_stdout, reason = "its result is text")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use kmsfs::clock::SystemClock;
use kmsfs::kms::api::CreateAccessKeyRequest;
use kmsfs::kms::{
    Caller, Costs, EncryptionContext, FileAccess, OnBehalf, Service, StoreOptions, UnlockSecret, wire,
};
use kmsfs::provider::{Embedded, Provider, SocketClient};
use kmsfs::secret::Passphrase;
use kmsfs::server::Server;
use kmsfs::server::http::{HttpServer, Listeners};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Clients at a time.
const CLIENTS: [usize; 3] = [1, 4, 16];

/// One way to the service: what carries out an operation.
type Call = Box<dyn FnMut(&str, &Value) -> Value + Send>;

struct World {
    service: Arc<Service>,
    address: SocketAddr,
    access_key_id: String,
    secret: String,
    dir: tempfile::TempDir,
}

fn main() {
    // `cargo test --benches` only wants to know whether it runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let seconds = std::env::var("KMSFS_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(if is_test { 0.01 } else { seconds.unwrap_or(2.0) });

    let dir = tempfile::tempdir().unwrap();
    let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
    let options = StoreOptions { costs, ..StoreOptions::default() };
    let secret = UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()));
    let service = Service::create(dir.path(), &secret, &options, Arc::new(SystemClock)).unwrap();
    let request =
        CreateAccessKeyRequest { user_name: "root".to_owned(), ..CreateAccessKeyRequest::default() };
    let made = service.create_access_key(&Caller::current(), &request).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listeners = Listeners { calls: vec![listener], pages: Vec::new() };
    let local = Server::start(Arc::clone(&service)).unwrap();
    let remote = HttpServer::start(Arc::clone(&service), Arc::new(SystemClock), listeners, None).unwrap();
    let world = World {
        service,
        address,
        access_key_id: made.access_key.access_key_id,
        secret: made.secret_access_key.to_string(),
        dir,
    };
    world.measure_all(time);
    remote.end();
    local.end();
}

impl World {
    fn measure_all(&self, time: Duration) {
        let mut setup = self.in_process();
        let key = setup("CreateKey", &json!({}))["KeyMetadata"]["KeyId"].clone();
        let other = setup("CreateKey", &json!({}))["KeyMetadata"]["KeyId"].clone();
        let context = json!({ "kmsfs:volume": "v", "kmsfs:file": "f" });
        let generate = json!({ "KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context });
        let blob = setup("GenerateDataKey", &generate)["CiphertextBlob"].clone();
        let decrypt = json!({ "CiphertextBlob": blob, "EncryptionContext": context });
        let re_encrypt = json!({
            "CiphertextBlob": blob,
            "SourceEncryptionContext": context,
            "DestinationKeyId": other,
            "DestinationEncryptionContext": context,
        });
        println!(
            "{:12} {:16} {:>7} {:>10} {:>10} {:>10}",
            "way", "operation", "clients", "calls/s", "p50 us", "p99 us"
        );
        let ways: [(&str, &dyn Fn() -> Call); 3] = [
            ("in process", &|| self.in_process()),
            ("Unix socket", &|| self.over_socket()),
            ("HTTP, SigV4", &|| self.over_http()),
        ];
        for (way, connect) in ways {
            for (operation, body) in
                [("GenerateDataKey", &generate), ("Decrypt", &decrypt), ("ReEncrypt", &re_encrypt)]
            {
                for clients in CLIENTS {
                    let calls: Vec<Call> = (0..clients).map(|_| connect()).collect();
                    show(way, operation, clients, measure(calls, operation, body, time), time);
                }
            }
        }
        let service = Arc::clone(&self.service);
        let mounts: [(&str, Arc<dyn Provider>); 2] = [
            ("in process", Arc::new(Embedded::new(service, Caller::current()))),
            ("Unix socket", Arc::new(SocketClient::new(self.dir.path()))),
        ];
        let key = setup("DescribeKey", &json!({ "KeyId": key }))["KeyMetadata"]["Arn"].clone();
        for (way, mount) in mounts {
            for clients in CLIENTS {
                let calls = (0..clients).map(|_| openings(&mount, key.as_str().unwrap())).collect();
                show(way, "AuthorizeOpen", clients, measure(calls, "", &Value::Null, time), time);
            }
        }
    }

    fn in_process(&self) -> Call {
        let (service, caller) = (Arc::clone(&self.service), Caller::current());
        Box::new(move |operation, body| {
            wire::dispatch(&service, &caller, &format!("TrentService.{operation}"), body).unwrap()
        })
    }

    fn over_socket(&self) -> Call {
        let client = SocketClient::new(self.dir.path());
        Box::new(move |operation, body| client.call(&format!("TrentService.{operation}"), body).unwrap())
    }

    fn over_http(&self) -> Call {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        let (id, secret) = (self.access_key_id.clone(), self.secret.clone());
        Box::new(move |operation, body| {
            writer.write_all(&signed(operation, body, &id, &secret)).unwrap();
            answer(&mut reader)
        })
    }
}

/// What a mount asks whenever a user opens a file.
fn openings(mount: &Arc<dyn Provider>, key: &str) -> Call {
    let (mount, key) = (Arc::clone(mount), key.to_owned());
    let context = EncryptionContext::new().with("kmsfs:volume", "v").with("kmsfs:file", "f");
    let whom = OnBehalf {
        uid: rustix::process::geteuid().as_raw(),
        gid: 1000,
        pid: std::process::id(),
        program: "cat".to_owned(),
        groups: vec![27, 100, 1000],
        path: "/home/photos/2026/a.jpg".to_owned(),
        access: FileAccess::Read,
    };
    Box::new(move |_, _| {
        mount.on_behalf(whom.clone()).unwrap().authorize_open(&key, 1, &context).unwrap();
        Value::Null
    })
}

fn show(way: &str, operation: &str, clients: usize, mut times: Vec<Duration>, time: Duration) {
    times.sort_unstable();
    let rate = times.len() as f64 / time.as_secs_f64();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    println!("{way:12} {operation:16} {clients:7} {rate:10.0} {:10.1} {:10.1}", at(0.5), at(0.99));
}

/// Lets every client call again and again; answers how long each call took.
fn measure(calls: Vec<Call>, operation: &str, body: &Value, time: Duration) -> Vec<Duration> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = calls
            .into_iter()
            .map(|mut call| {
                scope.spawn(move || {
                    call(operation, body);
                    let (mut times, begin) = (Vec::new(), Instant::now());
                    while begin.elapsed() < time {
                        let start = Instant::now();
                        std::hint::black_box(call(operation, body));
                        times.push(start.elapsed());
                    }
                    times
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// A request as an SDK signs it.
fn signed(operation: &str, body: &Value, id: &str, secret: &str) -> Vec<u8> {
    let hmac = |key: &[u8], text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let body = body.to_string();
    let date = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let scope = format!("{}/local/kms/aws4_request", &date[..8]);
    let headers = format!(
        "content-type:application/x-amz-json-1.1\nhost:localhost\nx-amz-date:{date}\nx-amz-target:TrentService.{operation}\n"
    );
    let names = "content-type;host;x-amz-date;x-amz-target";
    let canonical = format!("POST\n/\n\n{headers}\n{names}\n{}", hex(&Sha256::digest(&body)));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(&canonical)));
    let mut key = format!("AWS4{secret}").into_bytes();
    for step in scope.split('/') {
        key = hmac(&key, step);
    }
    let signature = hex(&hmac(&key, &to_sign));
    let headers = headers.replace('\n', "\r\n");
    let len = body.len();
    format!(
        "POST / HTTP/1.1\r\n{headers}authorization: AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, \
         Signature={signature}\r\ncontent-length: {len}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn answer(reader: &mut impl BufRead) -> Value {
    let (mut status, mut len) = (String::new(), 0);
    reader.read_line(&mut status).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => len = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    assert!(status.starts_with("HTTP/1.1 200"), "{status}{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}
