//! Requests and answers in the shapes of the AWS KMS JSON 1.1 API, and the few of our own; a file
//! for each family of operations. Unknown members are ignored; times are seconds since 1970; bytes
//! are base64.

mod access_keys;
mod aliases;
mod asymmetric;
mod crypto;
mod custom_key_stores;
mod grants;
mod import;
mod keys;
mod open;
mod policies;
mod receipts;
mod rotation;
mod status;
mod tags;
mod volumes;

pub use super::encoding::SecretBytes;
pub use access_keys::*;
pub use aliases::*;
pub use asymmetric::*;
pub use crypto::*;
pub use custom_key_stores::*;
pub use grants::*;
pub use import::*;
pub use keys::*;
pub use open::*;
pub use policies::*;
pub use receipts::*;
pub use rotation::*;
pub use status::*;
pub use tags::*;
pub use volumes::*;
