//! AWS Signature Version 4: who signed a request, and that it is what was signed. Requests of our own
//! are signed by a [`Signer`].
//!
//! Pure: a request as bytes, a time and a secret go in, a verdict comes out. In three steps, so that
//! nothing costly is done for a request that cannot be right: [`Claim::read`] before the body is
//! there, [`Claim::check`] against this service and its clock, [`Claim::verify`] once the secret and
//! the body's digest are known.
//!
//! Stricter than AWS: only the `Authorization` header counts (no presigned queries), the request's
//! time is that of `X-Amz-Date`, and `host` and every `x-amz-` header must be signed. Session tokens
//! are refused, for this service issues none.

mod authorization;
mod canonical;
mod error;
mod signing;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use authorization::Authorization;

pub use error::{AuthError, AuthKind};
pub use signing::{Signed, Signer};

/// How far a request's time may be from this service's, either way.
pub const SKEW: SignedDuration = SignedDuration::from_mins(15);
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
/// Headers that every request must sign.
const ALWAYS_SIGNED: [&str; 2] = ["host", "x-amz-date"];

/// A SHA-256 digest.
pub type Sha256Digest = [u8; 32];

/// A request without its body, as it came.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// In upper case.
    pub method: &'a str,
    /// Not decoded.
    pub path: &'a str,
    /// Not decoded, without the `?`; empty when there is none.
    pub query: &'a str,
    /// Names in lower case; several of one name in the order in which they came.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

/// The service that a signature must be for.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Where it is.
    pub region: &'a str,
    /// Its name in signatures.
    pub service: &'a str,
}

/// What a request says about its signer. Nothing of it is proven before [`Claim::verify`].
#[derive(Debug)]
pub struct Claim {
    authorization: Authorization,
    /// `X-Amz-Date` as it was written.
    date: String,
    at: Timestamp,
}

impl Head<'_> {
    /// The value of the only header of this name.
    fn only(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
        values.next().filter(|_| values.next().is_none())
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| *known == name)
    }
}

impl Claim {
    /// Reads what the head of a request claims.
    ///
    /// # Errors
    /// [`AuthKind::Missing`], [`AuthKind::Incomplete`], [`AuthKind::Unrecognized`] for a session token.
    pub fn read(head: &Head<'_>) -> Result<Self, AuthError> {
        let presigned = head.query.split('&').any(|pair| pair.to_ascii_lowercase().starts_with("x-amz-"));
        if presigned {
            return Err(AuthError::new(
                AuthKind::Missing,
                "Requests that are authenticated by their query are not supported: sign the Authorization header",
            ));
        }
        if !head.has("authorization") {
            return Err(AuthError::missing());
        }
        if head.has("x-amz-security-token") {
            return Err(AuthError::new(
                AuthKind::Unrecognized,
                "The security token included in the request is invalid: this service issues no session tokens",
            ));
        }
        let authorization = Authorization::parse(head.only("authorization").unwrap_or_default())?;
        let date = head.only("x-amz-date").and_then(|date| std::str::from_utf8(date).ok());
        let (date, at) = date.and_then(|date| Some((date, parse_date(date)?))).ok_or_else(|| {
            AuthError::incomplete("Authorization header requires existence of a 'X-Amz-Date' header of the form yyyymmddThhmmssZ.")
        })?;
        let claim = Self { authorization, date: date.to_owned(), at };
        claim.check_signed_headers(head)?;
        Ok(claim)
    }

    /// Id of the access key that the signature is said to be of.
    pub fn access_key_id(&self) -> &str {
        &self.authorization.access_key_id
    }

    /// What tells this signature from all others; of no use for making one.
    pub fn fingerprint(&self) -> Sha256Digest {
        let mut digest = Sha256::new();
        digest.update(&self.date);
        digest.update(self.authorization.signature);
        digest.finalize().into()
    }

    /// Checks that the claim is for this service and of this time.
    ///
    /// # Errors
    /// [`AuthKind::Invalid`], in AWS's words.
    pub fn check(&self, scope: Scope<'_>, now: Timestamp) -> Result<(), AuthError> {
        let asked = &self.authorization;
        if asked.service != scope.service {
            let message = format!("Credential should be scoped to correct service: '{}'.", scope.service);
            return Err(AuthError::new(AuthKind::Invalid, message));
        }
        if asked.region != scope.region {
            let message = format!(
                "Credential should be scoped to a valid region, not '{}'. This key store is region '{}'.",
                asked.region, scope.region
            );
            return Err(AuthError::new(AuthKind::Invalid, message));
        }
        let day = self.date.get(..8).unwrap_or_default();
        if asked.day != day {
            let message = format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{day}', from '{}'.",
                asked.day, self.date
            );
            return Err(AuthError::new(AuthKind::Invalid, message));
        }
        self.check_time(now)
    }

    /// Checks that whoever knows `secret` signed the request with this head and a body of this digest.
    ///
    /// # Errors
    /// [`AuthKind::Invalid`]; never says what would have been right.
    pub fn verify(&self, head: &Head<'_>, body: &Sha256Digest, secret: &str) -> Result<(), AuthError> {
        let expected = self.sign(head, body, secret);
        if bool::from(expected.ct_eq(&self.authorization.signature)) {
            return Ok(());
        }
        Err(AuthError::new(
            AuthKind::Invalid,
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
             Access Key and signing method. Consult the service documentation for details.",
        ))
    }

    /// The signature that a request with this head and a body of this digest should have.
    pub fn sign(&self, head: &Head<'_>, body: &Sha256Digest, secret: &str) -> Sha256Digest {
        let canonical = canonical::request(head, &self.authorization.signed_headers, body);
        let Authorization { day, region, service, .. } = &self.authorization;
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&canonical));
        let to_sign = format!("{ALGORITHM}\n{}\n{day}/{region}/{service}/{TERMINATOR}\n{digest}", self.date);
        let first = Zeroizing::new([b"AWS4", secret.as_bytes()].concat());
        let steps = [day, region, service, TERMINATOR];
        let mut key = Zeroizing::new(hmac(&first, steps[0].as_bytes()));
        for step in &steps[1..] {
            key = Zeroizing::new(hmac(&*key, step.as_bytes()));
        }
        hmac(&*key, to_sign.as_bytes())
    }

    fn check_signed_headers(&self, head: &Head<'_>) -> Result<(), AuthError> {
        let signed: BTreeSet<&str> = self.authorization.signed_headers.iter().map(String::as_str).collect();
        let present = head.headers.iter().map(|(name, _)| *name).filter(|name| name.starts_with("x-amz-"));
        let unsigned = ALWAYS_SIGNED.into_iter().chain(present).find(|name| !signed.contains(name));
        if let Some(name) = unsigned {
            let message = format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.");
            return Err(AuthError::new(AuthKind::Invalid, message));
        }
        match signed.iter().find(|name| !head.has(name)) {
            None => Ok(()),
            Some(name) => {
                let message = format!("The signed header '{name}' is not in the request.");
                Err(AuthError::new(AuthKind::Invalid, message))
            }
        }
    }

    fn check_time(&self, now: Timestamp) -> Result<(), AuthError> {
        let (written, now_written) = (&self.date, written(now));
        let earliest = now.checked_sub(SKEW).unwrap_or(Timestamp::MIN);
        let latest = now.checked_add(SKEW).unwrap_or(Timestamp::MAX);
        let message = if self.at < earliest {
            let bound = self::written(earliest);
            format!("Signature expired: {written} is now earlier than {bound} ({now_written} - 15 min.)")
        } else if self.at > latest {
            let bound = self::written(latest);
            format!(
                "Signature not yet current: {written} is still later than {bound} ({now_written} + 15 min.)"
            )
        } else {
            return Ok(());
        };
        Err(AuthError::new(AuthKind::Invalid, message))
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Sha256Digest {
    // Accepts keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Reads `20150830T123600Z`.
fn parse_date(text: &str) -> Option<Timestamp> {
    let shape = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if text.len() != 16 || !text.bytes().enumerate().all(shape) {
        return None;
    }
    let number = |at: usize, len: usize| text[at..at + len].parse::<i16>().ok();
    let small = |at| number(at, 2).and_then(|n| i8::try_from(n).ok());
    let at =
        jiff::civil::DateTime::new(number(0, 4)?, small(4)?, small(6)?, small(9)?, small(11)?, small(13)?, 0);
    Some(at.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

fn written(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}
