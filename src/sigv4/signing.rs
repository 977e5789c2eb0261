//! Signing: the `Authorization` header of a request of our own.

use jiff::Timestamp;

use super::authorization::Authorization;
use super::{ALGORITHM, ALWAYS_SIGNED, Claim, Head, Scope, Sha256Digest, TERMINATOR, written};

/// Who signs, for which service.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    /// Names the secret.
    pub access_key_id: &'a str,
    /// What is signed with.
    pub secret: &'a str,
    /// The service that is to believe it.
    pub scope: Scope<'a>,
}

/// Never shows the secret.
impl std::fmt::Debug for Signer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// The headers that a signature comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Value of `X-Amz-Date`.
    pub date: String,
    /// Value of `Authorization`.
    pub authorization: String,
}

impl Signer<'_> {
    /// Signs a POST to `path` of `host`, whose body has the digest `body`, as of `now`.
    pub fn sign_post(&self, host: &str, path: &str, body: &Sha256Digest, now: Timestamp) -> Signed {
        let date = written(now);
        let authorization = Authorization {
            access_key_id: self.access_key_id.to_owned(),
            day: date.get(..8).unwrap_or_default().to_owned(),
            region: self.scope.region.to_owned(),
            service: self.scope.service.to_owned(),
            signed_headers: ALWAYS_SIGNED.map(str::to_owned).to_vec(),
            signature: Sha256Digest::default(),
        };
        let claim = Claim { authorization, date, at: now };
        let headers = vec![("host", host.as_bytes()), ("x-amz-date", claim.date.as_bytes())];
        let head = Head { method: "POST", path, query: "", headers };
        let signature = data_encoding::HEXLOWER.encode(&claim.sign(&head, body, self.secret));
        let Authorization { access_key_id, day, region, service, signed_headers, .. } = &claim.authorization;
        let signed = signed_headers.join(";");
        let authorization = format!(
            "{ALGORITHM} Credential={access_key_id}/{day}/{region}/{service}/{TERMINATOR}, SignedHeaders={signed}, Signature={signature}"
        );
        Signed { date: claim.date, authorization }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const SCOPE: Scope<'_> = Scope { region: "local", service: "kms-xks-proxy" };

    #[test]
    fn what_is_signed_is_believed_and_nothing_else() {
        let signer = Signer { access_key_id: "AAAAAAAAAAAAAAAAAAAA", secret: "s3cret", scope: SCOPE };
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let body: Sha256Digest = Sha256::digest(b"{}").into();
        let signed = signer.sign_post("proxy.test:8443", "/kms/xks/v1/health", &body, now);
        let head = |host: &'static str, path: &'static str| Head {
            method: "POST",
            path,
            query: "",
            headers: vec![
                ("host", host.as_bytes()),
                ("x-amz-date", signed.date.as_bytes()),
                ("authorization", signed.authorization.as_bytes()),
            ],
        };
        let verify = |head: &Head<'_>, body: &Sha256Digest, secret: &str| {
            let claim = Claim::read(head).unwrap();
            assert_eq!(claim.access_key_id(), signer.access_key_id);
            claim.check(SCOPE, now).and_then(|()| claim.verify(head, body, secret))
        };
        let right = head("proxy.test:8443", "/kms/xks/v1/health");
        assert_eq!(verify(&right, &body, "s3cret"), Ok(()));
        assert!(verify(&right, &body, "another").is_err());
        assert!(verify(&right, &[0; 32], "s3cret").is_err());
        assert!(verify(&head("proxy.test", "/kms/xks/v1/health"), &body, "s3cret").is_err());
        assert!(verify(&head("proxy.test:8443", "/kms/xks/v1/heath"), &body, "s3cret").is_err());
    }
}
