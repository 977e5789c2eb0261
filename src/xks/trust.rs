//! Whose certificates are believed: those of the authorities that this machine trusts, or of those
//! that were named for one proxy.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// The authorities of one proxy.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those of this machine; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    System,
    /// These alone.
    Anchors(Arc<RootCertStore>),
}

/// Not certificates of authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("TrustAnchorCertificate must be one or more certificates in PEM")]
pub struct NotATrustAnchor;

impl Trust {
    /// The authorities whose certificates `pem` has.
    ///
    /// # Errors
    /// [`NotATrustAnchor`].
    pub fn anchors(pem: &str) -> Result<Self, NotATrustAnchor> {
        let mut anchors = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| NotATrustAnchor)?;
            anchors.add(certificate).map_err(|_| NotATrustAnchor)?;
        }
        if anchors.is_empty() { Err(NotATrustAnchor) } else { Ok(Self::Anchors(Arc::new(anchors))) }
    }

    /// No authorities: there is no TLS with anybody.
    pub fn nobody() -> Self {
        Self::Anchors(Arc::new(RootCertStore::empty()))
    }

    /// How to speak TLS with this trust: 1.2 and 1.3, HTTP/1.1. `None` when this machine cannot.
    pub(super) fn config(&self) -> Option<Arc<ClientConfig>> {
        let roots = match self {
            Self::System => Arc::new(of_this_machine()),
            Self::Anchors(anchors) => Arc::clone(anchors),
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().ok()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Some(Arc::new(config))
    }
}

fn of_this_machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate authority of this machine could not be read");
    }
    let (taken, _unusable) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        tracing::warn!("this machine trusts no certificate authority: no external key store can be reached");
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        for pem in [
            "",
            "nothing",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nMII",
        ] {
            assert_eq!(Trust::anchors(pem).err(), Some(NotATrustAnchor), "{pem}");
        }
    }
}
