//! Which proxies are believed to be themselves.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kmsfs::kms::ErrorKind;
use kmsfs::kms::api::UpdateCustomKeyStoreRequest;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::common::skipped;
use super::xks_proxy::Proxy;
use super::{World, of};

/// A certificate for `name`, its own authority, as a server's settings and as PEM.
fn certificate(dir: &Path, name: &str) -> Option<(Arc<ServerConfig>, String)> {
    let (key, certificate) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pem")));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    command.args(["-days", "2", "-subj", &format!("/CN={name}")]);
    command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
    // A certificate that may sign others is not one to serve with.
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    let made = command.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return None;
    }
    let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
    let private = PrivateKeyDer::from_pem_file(&key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    Some((Arc::new(config), std::fs::read_to_string(certificate).unwrap()))
}

#[test]
fn a_proxy_must_have_a_certificate_of_the_right_authority_and_name() {
    const TEST: &str = "a_proxy_must_have_a_certificate_of_the_right_authority_and_name";
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let (Some((config, authority)), Some((misnamed, other))) =
        (certificate(&dir, "localhost"), certificate(&dir, "elsewhere"))
    else {
        return skipped(TEST, "openssl cannot make certificates");
    };
    world.proxy = Proxy::start_with(world.clock.clone(), Some(config));
    let mut request = world.request("near");
    // Nobody vouches for it; not its authority; not even spoken.
    for (anchor, endpoint) in [
        (None, world.proxy.endpoint.clone()),
        (Some(other.clone()), world.proxy.endpoint.clone()),
        (Some(authority.clone()), world.proxy.endpoint.replace("localhost", "127.0.0.1")),
    ] {
        request.trust_anchor_certificate = anchor;
        request.xks_proxy_uri_endpoint = Some(endpoint);
        let error = world.create(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::XksProxyUriUnreachable);
        assert!(error.message().contains("TLS"), "{error}");
        assert_eq!(world.proxy.seen().len(), 0, "nothing was sent");
    }
    request.xks_proxy_uri_endpoint = Some(world.proxy.endpoint.clone());
    let store = world.create(&request).unwrap();
    assert_eq!(world.described(&store).trust_anchor_certificate, Some(authority));
    world.service().connect_custom_key_store(&world.caller, &of(&store)).unwrap();
    let key = world.key(&store, "one").unwrap();
    let blob = world.encrypt(&key, b"secret").unwrap();
    world.reopen();
    assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"secret");

    // Another certificate for another name, even one that is trusted.
    world.disconnect(&store);
    let (place, proxy) =
        (world.proxy.endpoint.clone(), Proxy::start_with(world.clock.clone(), Some(misnamed)));
    let update = UpdateCustomKeyStoreRequest {
        custom_key_store_id: store.clone(),
        xks_proxy_uri_endpoint: Some(proxy.endpoint.clone()),
        trust_anchor_certificate: Some(other),
        ..Default::default()
    };
    let error = world.service().update_custom_key_store(&world.caller, &update).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::XksProxyUriUnreachable, "{error}");
    assert_eq!(world.described(&store).xks_proxy_configuration.uri_endpoint, place);
    // One that speaks no TLS at all.
    let plain = Proxy::start(world.clock.clone());
    let port = plain.endpoint.rsplit(':').next().unwrap();
    let update = UpdateCustomKeyStoreRequest {
        custom_key_store_id: store,
        xks_proxy_uri_endpoint: Some(format!("https://localhost:{port}")),
        ..Default::default()
    };
    let error = world.service().update_custom_key_store(&world.caller, &update).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::XksProxyUriUnreachable, "{error}");
}
