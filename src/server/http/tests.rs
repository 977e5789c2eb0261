//! The endpoint as its clients see it, well-behaved ones and others. What real clients make of it is
//! in `tests/clients.rs`.

mod client;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::request::MAX_BODY;
use super::*;
use client::{Answer, Signer, World};

#[test]
fn a_signed_call_is_answered_as_aws_answers_it() {
    let world = World::new();
    let mut client = world.connect();
    let made = client.call(&world.signer, "CreateKey", &json!({ "Description": "d" }));
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.header("content-type"), "application/x-amz-json-1.1");
    assert_eq!(made.header("x-amzn-requestid").len(), 36);
    let key = made.body["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let context = json!({ "purpose": "test" });
    let data_key = json!({ "KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context });
    let data_key = client.call(&world.signer, "GenerateDataKey", &data_key).body;
    let decrypt = json!({ "CiphertextBlob": data_key["CiphertextBlob"], "EncryptionContext": context });
    let opened = client.call(&world.signer, "Decrypt", &decrypt);
    assert_eq!(opened.body["Plaintext"], data_key["Plaintext"]);
    // An empty body is one without members.
    assert_eq!(client.send(&world.signer.request("ListKeys", b"")).body["Keys"].as_array().unwrap().len(), 1);

    let missing = client.call(&world.signer, "DescribeKey", &json!({ "KeyId": "alias/none" }));
    assert_eq!((missing.status, missing.error()), (400, "NotFoundException"));
    assert_eq!(missing.header("x-amzn-errortype"), "NotFoundException");
    assert!(missing.body["message"].as_str().unwrap().contains("alias/none"));
}

#[test]
fn nothing_unsigned_is_answered_but_the_pages() {
    let world = World::new();
    let mut client = world.connect();
    let body = b"{}".as_slice();
    let refusals = [
        (
            Signer { id: "AKFSNOBODY0123456789".to_owned(), ..world.signer.clone() },
            "UnrecognizedClientException",
        ),
        (Signer { secret: "x".repeat(40), ..world.signer.clone() }, "InvalidSignatureException"),
        (Signer { region: "elsewhere".to_owned(), ..world.signer.clone() }, "InvalidSignatureException"),
        (Signer { service: "s3".to_owned(), ..world.signer.clone() }, "InvalidSignatureException"),
    ];
    for (signer, error) in refusals {
        let refused = client.send(&signer.request("ListKeys", body));
        assert_eq!((refused.status, refused.error()), (400, error));
    }
    let unsigned = client.send(&Signer::unsigned("ListKeys", body));
    assert_eq!((unsigned.status, unsigned.error()), (400, "MissingAuthenticationTokenException"));
    let good = world.signer.request("ListKeys", body);
    for (from, to, error) in [
        ("TrentService.ListKeys", "TrentService.ListAliases", "InvalidSignatureException"),
        ("\r\n\r\n{}", "\r\n\r\n{ }", "InvalidSignatureException"),
        ("POST / ", "POST /?a=b ", "InvalidSignatureException"),
        ("POST / ", "POST /?X-Amz-Signature=00 ", "MissingAuthenticationTokenException"),
        ("Credential=", "Credential=/", "IncompleteSignatureException"),
        ("\r\nx-amz-date", "\r\nx-amz-security-token: t\r\nx-amz-date", "UnrecognizedClientException"),
    ] {
        let mut changed = String::from_utf8(good.clone()).unwrap().replace(from, to);
        if to.ends_with("{ }") {
            changed = changed.replace("content-length: 2", "content-length: 3");
        }
        let refused = client.send(changed.as_bytes());
        assert_eq!((refused.status, refused.error()), (400, error), "{to}");
    }
    for page in ["/healthz", "/metrics"] {
        assert_eq!(client.send(&client::get(page)).status, 200, "{page}");
    }
    assert_eq!(client.send(&client::get("/")).status, 404);
    assert_eq!(client.send(&good).status, 200, "and the connection is as good as ever");
}

#[test]
fn what_is_not_believed_is_in_the_audit_log() {
    let world = World::new();
    let mut client = world.connect();
    let body = b"{}".as_slice();
    client.send(&Signer::unsigned("Decrypt", body));
    client.send(&Signer { secret: "x".repeat(40), ..world.signer.clone() }.request("ListKeys", body));
    client.call(&world.signer, "ListAliases", &json!({}));
    let log = world.audit_log();
    for (operation, said) in [
        ("Decrypt", "MissingAuthenticationTokenException"),
        ("ListKeys", "InvalidSignatureException"),
        ("ListAliases", "127.0.0.1"),
    ] {
        let line = log.lines().find(|line| line.contains(&format!("\"eventName\":\"{operation}\"")));
        assert!(line.is_some_and(|line| line.contains(said)), "{operation}: {log}");
    }
    assert!(!log.contains(&world.signer.secret));
}

#[test]
fn users_may_do_what_policies_say() {
    let world = World::new();
    let mut client = world.connect();
    let ada = world.signer_of("ada");
    let key = client.call(&world.signer, "CreateKey", &json!({})).body["KeyMetadata"]["KeyId"].clone();
    let generate = json!({ "KeyId": key, "KeySpec": "AES_256" });
    let refused = client.call(&ada, "GenerateDataKey", &generate);
    assert_eq!((refused.status, refused.error()), (400, "AccessDeniedException"));
    assert!(
        refused.body["message"].as_str().unwrap().contains("arn:aws:iam::000000000000:user/ada"),
        "{refused:?}"
    );
    let grant = json!({
        "KeyId": key,
        "GranteePrincipal": "arn:aws:iam::000000000000:user/ada",
        "Operations": ["GenerateDataKey"],
    });
    assert_eq!(client.call(&world.signer, "CreateGrant", &grant).status, 200);
    world.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(client.call(&ada, "GenerateDataKey", &generate).status, 200);
    assert_eq!(client.call(&ada, "DisableKey", &json!({ "KeyId": key })).error(), "AccessDeniedException");
}

#[test]
fn a_disabled_access_key_is_as_good_as_none() {
    let world = World::new();
    let mut client = world.connect();
    for (status, expected) in [("Inactive", 400), ("Active", 200)] {
        world.set_status(status);
        let answer = client.call(&world.signer, "ListKeys", &json!({ "Limit": expected }));
        assert_eq!(answer.status, expected, "{answer:?}");
        if expected == 400 {
            assert_eq!(answer.error(), "UnrecognizedClientException");
        }
    }
}

#[test]
fn the_clock_decides_how_long_a_signature_is_good() {
    let world = World::new();
    let mut client = world.connect();
    let old = world.signer.request("GenerateRandom", br#"{"NumberOfBytes":8}"#);
    assert_eq!(client.send(&old).status, 200);
    assert_eq!(client.send(&old).status, 200, "two equal calls within a second are both meant");
    world.clock.advance(SignedDuration::from_secs(11));
    let replayed = client.send(&old);
    assert_eq!(replayed.error(), "InvalidSignatureException");
    assert!(replayed.body["message"].as_str().unwrap().starts_with("Signature already used"));
    world.clock.advance(SignedDuration::from_mins(15));
    let expired = client.send(&old);
    assert!(expired.body["message"].as_str().unwrap().starts_with("Signature expired"), "{expired:?}");
}

#[test]
fn malformed_requests_get_errors_of_the_protocol() {
    let world = World::new();
    let mut client = world.connect();
    let signer = &world.signer;
    let cases: [(&str, &[u8], u16, &str); 13] = [
        ("ListKeys", b"{", 400, "SerializationException"),
        ("ListKeys", b"[]", 400, "SerializationException"),
        ("ListKeys", b"nothing", 400, "SerializationException"),
        ("ListKeys", &[0xff, 0xfe], 400, "SerializationException"),
        ("ListKeys", &[b'['; 100_000], 400, "SerializationException"),
        ("ListKeys", br#"{"Limit":"many"}"#, 400, "SerializationException"),
        ("ListKeys", br#"{"Limit":-1}"#, 400, "ValidationException"),
        ("DescribeKey", b"{}", 400, "ValidationException"),
        ("DescribeKey", br#"{"KeyId":{}}"#, 400, "SerializationException"),
        ("Decrypt", br#"{"CiphertextBlob":"not base64!"}"#, 400, "SerializationException"),
        ("Decrypt", br#"{"CiphertextBlob":""}"#, 400, "InvalidCiphertextException"),
        ("NoSuchOperation", b"{}", 400, "UnknownOperationException"),
        ("CreateAccessKey", b"{}", 400, "UnsupportedOperationException"),
    ];
    for (operation, body, status, error) in cases {
        let answer = client.send(&signer.request(operation, body));
        assert_eq!(
            (answer.status, answer.error()),
            (status, error),
            "{operation} {:?}",
            String::from_utf8_lossy(body)
        );
    }
    for (target, kind) in [
        ("Kmsfs.StoreInfo", "application/x-amz-json-1.1"),
        ("Kmsfs.CreateAccessKey", "application/x-amz-json-1.1"),
        ("DynamoDB_20120810.ListTables", "application/x-amz-json-1.1"),
        ("TrentService.ListKeys", "application/json"),
        ("TrentService.ListKeys", ""),
    ] {
        let answer = client.send(&signer.request_to(target, kind, b"{}"));
        assert_eq!((answer.status, answer.error()), (400, "UnknownOperationException"), "{target} {kind}");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let request = String::from_utf8(signer.request("ListKeys", b"{}")).unwrap();
        let answer = client.send(request.replacen("POST", method, 1).as_bytes());
        assert_eq!((answer.status, answer.error()), (404, "UnknownOperationException"), "{method}");
    }
    assert_eq!(client.call(signer, "ListKeys", &json!({})).status, 200);
}

#[test]
fn a_body_has_a_limit_whether_it_is_announced_or_not() {
    let world = World::new();
    for len in [MAX_BODY, MAX_BODY + 1, 4 * MAX_BODY] {
        let body = vec![b' '; len];
        let (status, error) = if len > MAX_BODY {
            (413, "RequestEntityTooLargeException")
        } else {
            (400, "SerializationException")
        };
        let answer = world.connect().send(&world.signer.request("ListKeys", &body));
        assert_eq!((answer.status, answer.error()), (status, error), "{len}");
        let answer = world.connect().send(&world.signer.chunked("ListKeys", &body));
        assert_eq!((answer.status, answer.error()), (status, error), "{len} in chunks");
    }
    // Nobody unknown gets to send so much either.
    let answer = world.connect().send(&Signer::unsigned("ListKeys", &vec![b' '; 4 * MAX_BODY]));
    assert_eq!(answer.error(), "MissingAuthenticationTokenException");
}

#[test]
fn garbage_ends_its_own_connection_alone() {
    let world = World::new();
    let mut good = world.connect();
    let head = "POST / HTTP/1.1\r\nhost: h\r\n".to_owned();
    let many: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
    for garbage in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"\0\0\0\0\0\0\0\0".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"POST / HTTP/9.9\r\n\r\n".to_vec(),
        format!("{head}content-length: ten\r\n\r\n").into_bytes(),
        format!("{head}content-length: 1\r\ncontent-length: 2\r\n\r\n").into_bytes(),
        format!("{head}{many}\r\n").into_bytes(),
        format!("{head}long: {}\r\n\r\n", "x".repeat(100_000)).into_bytes(),
        format!("{head}bad header\r\n\r\n").into_bytes(),
    ] {
        let mut stream = world.stream();
        // The other side may hang up before it has all of it.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert_eq!(good.call(&world.signer, "ListKeys", &json!({})).status, 200);
}

#[test]
fn a_client_that_stalls_or_leaves_holds_nobody_up() {
    let world = World::new();
    let request = world.signer.request("ListKeys", br#"{"Limit":5}"#);
    let stalled: Vec<TcpStream> = (1..request.len())
        .step_by(40)
        .map(|len| {
            let mut stream = world.stream();
            stream.write_all(&request[..len]).unwrap();
            stream
        })
        .collect();
    let mut client = world.connect();
    assert_eq!(client.call(&world.signer, "ListKeys", &json!({ "Limit": 6 })).status, 200);
    drop(stalled);
    assert_eq!(client.call(&world.signer, "ListKeys", &json!({ "Limit": 7 })).status, 200);
}

#[test]
fn a_body_that_does_not_come_is_answered_in_time() {
    let world = World::new();
    let request = world.signer.request("ListKeys", br#"{"Limit":5}"#);
    let mut stream = world.stream();
    stream.write_all(&request[..request.len() - 1]).unwrap();
    let answer = Answer::read(&mut stream);
    assert_eq!((answer.status, answer.error()), (408, "RequestTimeoutException"));
    assert_eq!(answer.header("connection"), "close");
}

#[test]
fn many_clients_at_once_each_get_their_own_answers() {
    let world = World::new();
    thread::scope(|scope| {
        for client in 0..8u64 {
            let world = &world;
            scope.spawn(move || {
                let mut connection = world.connect();
                for call in 0..50 {
                    let bytes = 1 + client * 100 + call;
                    let answer =
                        connection.call(&world.signer, "GenerateRandom", &json!({ "NumberOfBytes": bytes }));
                    let text = answer.body["Plaintext"].as_str().unwrap();
                    let random = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
                    assert_eq!(random.len() as u64, bytes);
                }
            });
        }
    });
    let page = world.connect().send(&client::get("/metrics")).text;
    assert!(
        page.contains("kmsfs_requests_total{operation=\"GenerateRandom\",result=\"ok\"} 400\n"),
        "{page}"
    );
    assert!(page.contains("kmsfs_mounts 0\n"));
}

#[test]
fn metrics_name_no_key_and_no_user() {
    let world = World::new();
    let mut client = world.connect();
    let made = client.call(&world.signer, "CreateKey", &json!({}));
    let key = made.body["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    client.call(&world.signer, "DescribeKey", &json!({ "KeyId": key }));
    client.call(&world.signer, &key, &json!({}));
    let page = client.send(&client::get("/metrics")).text;
    for line in [
        "kmsfs_requests_total{operation=\"none\",result=\"UnknownOperationException\"} 1",
        "kmsfs_keys{state=\"Enabled\"} 1",
        "kmsfs_connections 1",
    ] {
        assert!(page.lines().any(|have| have == line), "{line}\n{page}");
    }
    for secret in [&key, &world.signer.id, &world.signer.secret] {
        assert!(!page.contains(secret), "{secret}");
    }
}

#[test]
fn pages_of_their_own_listener_are_nowhere_else() {
    let world = World::with_pages();
    assert_eq!(world.connect().send(&client::get("/metrics")).status, 404);
    let mut pages = world.connect_to_pages();
    assert_eq!(pages.send(&client::get("/healthz")).text, "ok\n");
    assert_eq!(pages.send(&world.signer.request("ListKeys", b"{}")).status, 404);
}

#[test]
fn others_are_served_through_tls_or_not_at_all() {
    let world = World::new();
    let calls = vec![TcpListener::bind("0.0.0.0:0").unwrap()];
    let refused = HttpServer::start(
        Arc::clone(&world.service),
        world.clock.clone(),
        Listeners { calls, pages: Vec::new() },
        None,
    );
    assert!(matches!(refused, Err(HttpError::NeedsTls(_))));
}

#[test]
fn ending_answers_what_is_under_way_and_waits_for_no_idle_client() {
    let mut world = World::new();
    let mut idle = world.connect();
    assert_eq!(idle.call(&world.signer, "ListKeys", &json!({})).status, 200);
    let silent = world.stream();
    let start = Instant::now();
    world.end();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let mut rest = Vec::new();
    assert!(idle.stream.read_to_end(&mut rest).is_err() || rest.is_empty());
    drop(silent);
    assert_eq!(Arc::strong_count(&world.service), 1, "the store can be given up");
}

#[test]
fn an_answer_is_json_even_when_it_is_an_error() {
    let world = World::new();
    let answer = world.connect().call(&world.signer, "EnableKey", &json!({ "KeyId": "\u{1f511}\"\\" }));
    assert_eq!(answer.error(), "NotFoundException");
    assert_ne!(answer.body, Value::Null);
}
