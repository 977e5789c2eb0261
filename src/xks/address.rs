//! Where a proxy is: an endpoint and a path.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

const MAX_ENDPOINT: usize = 128;
const MIN_ENDPOINT: usize = 10;
const MAX_PATH: usize = 128;
/// What every path ends with, before the version's one or two digits.
const API: &str = "/kms/xks/v";

/// The place of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) is_https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The host as requests name it: with its port, unless that is the usual one.
    pub(super) authority: String,
    pub(super) path: String,
}

/// Why something is no place of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotAnAddress {
    /// The endpoint.
    #[error(
        "XksProxyUriEndpoint must be https:// and a host of letters, digits, '.' and '-', with :PORT unless it is \
         443, of 10 to 128 characters; http:// is for 127.0.0.0/8 and localhost alone"
    )]
    Endpoint,
    /// The path.
    #[error(
        "XksProxyUriPath must be of letters, digits, '/', '_' and '-', end with /kms/xks/v1, and be 10 to 128 \
         characters long"
    )]
    Path,
}

impl Address {
    /// Reads an endpoint, as AWS takes it, and a path. Unlike AWS's, an endpoint may have a port, and
    /// may be plain HTTP where nothing leaves this machine.
    ///
    /// # Errors
    /// [`NotAnAddress`].
    pub fn parse(endpoint: &str, path: &str) -> Result<Self, NotAnAddress> {
        check_path(path)?;
        if !(MIN_ENDPOINT..=MAX_ENDPOINT).contains(&endpoint.len()) {
            return Err(NotAnAddress::Endpoint);
        }
        let (is_https, rest) = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(NotAnAddress::Endpoint),
        };
        let usual = if is_https { 443 } else { 80 };
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (rest, usual),
        };
        let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
        if host.is_empty() || !host.bytes().all(is_of_host) || !is_https && !is_loopback(host) {
            return Err(NotAnAddress::Endpoint);
        }
        let host = host.to_ascii_lowercase();
        let authority = if port == usual { host.clone() } else { format!("{host}:{port}") };
        Ok(Self { is_https, host, port, authority, path: path.to_owned() })
    }

    /// Whether a connection may go to `ip`: without TLS nothing leaves this machine, whatever a name
    /// may stand for.
    pub(super) fn may_be_at(&self, ip: IpAddr) -> bool {
        self.is_https || ip.is_loopback()
    }
}

fn parse_port(text: &str) -> Result<u16, NotAnAddress> {
    // One spelling: no sign, no zeros before it.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_number.then(|| text.parse().ok()).flatten().ok_or(NotAnAddress::Endpoint)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

fn check_path(path: &str) -> Result<(), NotAnAddress> {
    let is_of_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte);
    let version = path.rsplit_once(API).map(|(_, version)| version);
    let is_version = |text: &str| matches!(text.len(), 1 | 2) && text.bytes().all(|b| b.is_ascii_digit());
    // One spelling of a path alone: signatures are over what is left without repeated slashes.
    let fits = path.len() <= MAX_PATH && path.starts_with('/') && !path.contains("//");
    if fits && path.bytes().all(is_of_path) && version.is_some_and(is_version) {
        return Ok(());
    }
    Err(NotAnAddress::Path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/kms/xks/v1";

    #[test]
    fn endpoints_are_https_or_on_this_machine() {
        for (endpoint, host, port, authority) in [
            ("https://proxy.example.org", "proxy.example.org", 443, "proxy.example.org"),
            ("https://Proxy.example.org:443", "proxy.example.org", 443, "proxy.example.org"),
            ("https://10.0.0.1:8443", "10.0.0.1", 8443, "10.0.0.1:8443"),
            ("http://127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1"),
            ("http://localhost:8000", "localhost", 8000, "localhost:8000"),
        ] {
            let address = Address::parse(endpoint, PATH).unwrap();
            assert_eq!((&*address.host, address.port, &*address.authority), (host, port, authority));
        }
        for endpoint in [
            "",
            "https://",
            "https://a",
            "proxy.example.org",
            "ftp://proxy.example.org",
            "http://proxy.example.org",
            "http://10.0.0.1:80",
            "http://127.0.0.1.example.org",
            "http://localhost.example.org",
            "https://proxy.example.org/",
            "https://proxy.example.org/kms",
            "https://user@proxy.example.org",
            "https://proxy.example.org:0",
            "https://proxy.example.org:0443",
            "https://proxy.example.org:",
            "https://proxy.example.org:+1",
            "https://proxy.example.org:65536",
            "https://proxy.example.org:1:2",
            "https://proxy example.org",
            "https://[::1]:8443",
        ] {
            assert_eq!(Address::parse(endpoint, PATH), Err(NotAnAddress::Endpoint), "{endpoint}");
        }
        let long = format!("https://{}", "a".repeat(121));
        assert_eq!(Address::parse(&long, PATH), Err(NotAnAddress::Endpoint));
    }

    #[test]
    fn paths_end_with_the_api_and_have_one_spelling() {
        for path in [PATH, "/a/kms/xks/v1", "/a_b/C-d/kms/xks/v12"] {
            assert!(Address::parse("https://proxy.test", path).is_ok(), "{path}");
        }
        let long = format!("/{}/kms/xks/v1", "a".repeat(120));
        for path in [
            "",
            "/",
            "kms/xks/v1",
            "/kms/xks/v",
            "/kms/xks/v123",
            "/kms/xks/v1/",
            "/a/../kms/xks/v1",
            "//kms/xks/v1",
            "/a?b/kms/xks/v1",
            &long,
        ] {
            assert_eq!(Address::parse("https://proxy.test", path), Err(NotAnAddress::Path), "{path}");
        }
    }

    #[test]
    fn without_tls_nothing_leaves_this_machine() {
        let plain = Address::parse("http://localhost:8000", PATH).unwrap();
        assert!(plain.may_be_at("127.0.0.1".parse().unwrap()) && plain.may_be_at("::1".parse().unwrap()));
        assert!(!plain.may_be_at("10.0.0.1".parse().unwrap()));
        let tls = Address::parse("https://proxy.test", PATH).unwrap();
        assert!(tls.may_be_at("10.0.0.1".parse().unwrap()));
    }
}
