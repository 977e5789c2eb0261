//! The canonical request: the one spelling of a request that is signed.

use super::{Head, Sha256Digest};

/// Method, path, query, signed headers, their names and the body's digest, a line each.
pub(super) fn request(head: &Head<'_>, signed: &[String], body: &Sha256Digest) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    for line in [head.method, &path(head.path), &query(head.query)] {
        out.extend(line.as_bytes());
        out.push(b'\n');
    }
    for name in signed {
        out.extend(name.as_bytes());
        out.push(b':');
        let values = head.headers.iter().filter(|(known, _)| known == name);
        for (index, (_, value)) in values.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            append_collapsed(&mut out, value);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend(signed.join(";").as_bytes());
    out.push(b'\n');
    out.extend(data_encoding::HEXLOWER.encode(body).as_bytes());
    out
}

/// Without `.`, `..` and repeated slashes; what came encoded is encoded once more, as AWS does it for
/// all services but S3.
fn path(raw: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let mut out = String::from("/");
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            out.push('/');
        }
        encode(&mut out, segment.as_bytes());
    }
    let is_folder = raw.ends_with('/') || raw.ends_with("/.") || raw.ends_with("/..");
    if is_folder && !segments.is_empty() {
        out.push('/');
    }
    out
}

/// Pairs in order of their encoded names, then values.
fn query(raw: &str) -> String {
    let pairs = raw.split('&').filter(|pair| !pair.is_empty());
    let mut encoded: Vec<(String, String)> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let spell = |text: &str| {
                let mut out = String::new();
                encode(&mut out, &decode(text.as_bytes()));
                out
            };
            (spell(name), spell(value))
        })
        .collect();
    encoded.sort();
    let joined: Vec<String> = encoded.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    joined.join("&")
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
}

/// Undoes percent-encoding; what is not validly encoded stays as it is.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let encoded = (first == b'%').then(|| tail.get(..2)).flatten();
        match encoded.and_then(|digits| data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok()) {
            Some(byte) => {
                out.extend(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// Appends a header's value without spaces at its ends, and single ones within.
fn append_collapsed(out: &mut Vec<u8>, value: &[u8]) {
    let mut after_space = false;
    for &byte in value.trim_ascii() {
        let is_space = byte == b' ';
        if !(is_space && after_space) {
            out.push(byte);
        }
        after_space = is_space;
    }
}
