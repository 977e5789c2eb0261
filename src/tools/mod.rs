//! What is done to a volume or a machine beside mounting: for now, measuring speed.

pub mod chunk_speed;
pub mod speed;
