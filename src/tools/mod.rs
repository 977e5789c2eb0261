//! What is done to a volume or a machine beside mounting: measuring speed, and re-wrapping its files,
//! taking their keys to another key store.

pub mod bundle;
pub mod chunk_speed;
pub mod mount_speed;
pub mod rewrap;
pub mod speed;
