//! A proxy, and the four things that it can be asked.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::gate::Gate;
use super::protocol::{
    Asking, Decrypted, Decrypting, Encrypted, Encrypting, Health, KeyFacts, Occasion, Wrapping, answer,
};
use super::transport::{Network, Transport};
use super::{Address, ProxyError, SERVICE, Trust};
use crate::sigv4::{Scope, Signer};

/// Room for the longest request, so that writing it leaves no copies behind.
const REQUEST_ROOM: usize = 32 * 1024;

/// What a proxy believes requests by.
#[derive(Clone)]
pub struct Access {
    /// Region of the key service.
    pub region: String,
    /// Names the secret.
    pub access_key_id: String,
    /// What requests are signed with.
    pub secret: Zeroizing<String>,
}

/// Never shows the secret.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("region", &self.region).finish_non_exhaustive()
    }
}

/// A proxy. May be used from any thread; a call waits for the answer.
#[derive(Debug)]
pub struct Proxy {
    transport: Transport,
    access: Access,
    gate: Gate,
}

impl Proxy {
    /// The proxy at `address`. Nothing is sent yet.
    pub fn new(network: Arc<Network>, address: Address, trust: Trust, access: Access) -> Self {
        Self { transport: Transport::new(network, address, trust), access, gate: Gate::default() }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        self.transport.address()
    }

    /// GetHealthStatus. Asks even a proxy that is left alone.
    ///
    /// # Errors
    /// Any [`ProxyError`].
    pub fn health(&self, occasion: Occasion<'_>, now: Timestamp) -> Result<Health, ProxyError> {
        let health: Health = self.post("/health", &Asking { request_metadata: occasion }, now)?;
        self.gate.open();
        health.check()
    }

    /// GetKeyMetadata of the external key `key`.
    ///
    /// # Errors
    /// Any [`ProxyError`].
    pub fn key_facts(
        &self,
        key: &str,
        occasion: Occasion<'_>,
        now: Timestamp,
    ) -> Result<KeyFacts, ProxyError> {
        self.ask(key, "metadata", &Asking { request_metadata: occasion }, now, |facts: KeyFacts| {
            facts.check()
        })
    }

    /// Encrypt with the external key `key`, bound to `aad`.
    ///
    /// # Errors
    /// Any [`ProxyError`].
    pub fn encrypt(
        &self,
        key: &str,
        occasion: Occasion<'_>,
        aad: &[u8],
        plaintext: &[u8],
        now: Timestamp,
    ) -> Result<Wrapping, ProxyError> {
        let request = Encrypting::new(occasion, aad, plaintext);
        let len = plaintext.len();
        self.ask(key, "encrypt", &request, now, |made: Encrypted| made.into_wrapping(aad, len))
    }

    /// Decrypt what [`Proxy::encrypt`] made. Whether it is the same plaintext, the caller must know.
    ///
    /// # Errors
    /// Any [`ProxyError`].
    pub fn decrypt(
        &self,
        key: &str,
        occasion: Occasion<'_>,
        aad: &[u8],
        wrapping: &Wrapping,
        now: Timestamp,
    ) -> Result<Zeroizing<Vec<u8>>, ProxyError> {
        let request = Decrypting::new(occasion, aad, wrapping);
        let len = wrapping.ciphertext.len();
        self.ask(key, "decrypt", &request, now, |opened: Decrypted| opened.into_plaintext(len))
    }

    fn ask<A: DeserializeOwned, T>(
        &self,
        key: &str,
        operation: &str,
        request: &impl Serialize,
        now: Timestamp,
        take: impl FnOnce(A) -> Result<T, ProxyError>,
    ) -> Result<T, ProxyError> {
        let pass = self.gate.enter(Instant::now())?;
        let result = self.post(&format!("/keys/{key}/{operation}"), request, now).and_then(take);
        pass.leave(&result, Instant::now());
        result
    }

    fn post<A: DeserializeOwned>(
        &self,
        below: &str,
        request: &impl Serialize,
        now: Timestamp,
    ) -> Result<A, ProxyError> {
        let mut body = Zeroizing::new(Vec::with_capacity(REQUEST_ROOM));
        serde_json::to_writer(&mut *body, request).map_err(|_| ProxyError::Internal)?;
        let Address { authority, path, .. } = self.transport.address();
        let path = format!("{path}{below}");
        let Access { region, access_key_id, secret } = &self.access;
        let signer = Signer { access_key_id, secret, scope: Scope { region, service: SERVICE } };
        let signed = signer.sign_post(authority, &path, &Sha256::digest(&*body).into(), now);
        let (status, body) = self.transport.post(&path, &signed, body)?;
        answer(status, &body)
    }
}
