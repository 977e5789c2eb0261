//! kmsfs: a directory of ciphertext, mounted as a normal directory. Every file has its own data
//! key, wrapped by a master key in a local key service modelled on AWS KMS.
//!
//! The modules form floors; each imports only from floors below its own (`tests/layering.rs`
//! enforces it):
//!
//! | floor | modules |
//! |---|---|
//! | 7 | `cli` |
//! | 6 | `check`, `mount`, `server`, `tools` |
//! | 5 | `fs` |
//! | 4 | `chunk`, `names`, `provider` |
//! | 3 | `format`, `kms` |
//! | 2 | `crypto`, `xks` |
//! | 1 | `secret`, `codec`, `sys`, `clock`, `sync`, `sigv4` |
#![deny(unsafe_code)]

pub mod check;
pub mod chunk;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod crypto;
pub mod format;
pub mod fs;
pub mod kms;
pub mod mount;
pub mod names;
pub mod provider;
pub mod secret;
pub mod server;
pub mod sigv4;
pub mod sync;
pub mod sys;
pub mod tools;
pub mod xks;
