//! The server's certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::HttpError;

/// A certificate with its chain and its private key. TLS 1.2 and 1.3, HTTP/1.1.
#[derive(Debug)]
pub struct Certificate(Arc<ServerConfig>);

impl Certificate {
    /// Reads both from PEM files.
    ///
    /// # Errors
    /// [`HttpError::Certificate`] when one cannot be read, or they do not belong together.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, HttpError> {
        let unusable =
            |path: &Path, why: String| HttpError::Certificate { path: path.display().to_string(), why };
        let certificates: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
        let certificates = certificates.map_err(|error| unusable(chain, error.to_string()))?;
        if certificates.is_empty() {
            return Err(unusable(chain, "there is no certificate in it".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error.to_string()))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private));
        let mut config = config.map_err(|error| unusable(key, error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn into_config(self) -> Arc<ServerConfig> {
        self.0
    }
}
