//! Requests and answers in the shapes of the AWS KMS JSON 1.1 API, and the few of our own; a file
//! for each family of operations. Unknown members are ignored; times are seconds since 1970; bytes
//! are base64.

mod access_keys;
mod aliases;
mod crypto;
mod grants;
mod keys;
mod policies;
mod status;
mod tags;

pub use super::encoding::SecretBytes;
pub use access_keys::*;
pub use aliases::*;
pub use crypto::*;
pub use grants::*;
pub use keys::*;
pub use policies::*;
pub use status::*;
pub use tags::*;
