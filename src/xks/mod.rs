//! The client of an external key store proxy: AWS's "External Key Store Proxy API", version 1.
//!
//! A [`Proxy`] stands before a key manager elsewhere, which encrypts and decrypts with keys that never
//! leave it. It is asked over HTTPS, with requests that are signed (SigV4); over plain HTTP only on this
//! machine. Whatever it does, a call ends within [`CALL_TIME`]; nothing that it says is believed beyond
//! what the caller can check.
//!
//! | module | |
//! |---|---|
//! | `address` | where a proxy is |
//! | `trust` | whose certificates are believed |
//! | `transport` | connections, and one request with its answer |
//! | `gate` | not to wait for a proxy that does not answer |
//! | `protocol` | the shapes of requests and answers |

mod address;
mod error;
mod gate;
mod protocol;
mod proxy;
mod transport;
mod trust;

use std::time::Duration;

pub use address::{Address, NotAnAddress};
pub use error::ProxyError;
pub use protocol::{Health, KeyFacts, Occasion, Wrapping};
pub use proxy::{Access, Proxy};
pub use transport::Network;
pub use trust::{NotATrustAnchor, Trust};

/// How long a call may take, with connecting and all: four times what AWS gives a proxy.
pub const CALL_TIME: Duration = Duration::from_secs(1);
/// Name of the service that requests are signed for.
pub const SERVICE: &str = "kms-xks-proxy";
/// Longest metadata of a proxy that goes into a ciphertext, in bytes.
pub const MAX_METADATA: usize = 20;
/// Length of the tag of a ciphertext, in bytes.
pub const TAG_LEN: usize = 16;

/// Whether a ciphertext can have an initialization vector of `len` bytes.
pub fn is_iv_len(len: usize) -> bool {
    matches!(len, 12 | 16)
}
