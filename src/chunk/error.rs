//! What can go wrong between a caller and its chunks.

use std::io;

use thiserror::Error;

use crate::format::FormatError;
use crate::format::layout::MapPage;

/// Why a chunk could not be read or written.
#[derive(Debug, Error)]
pub enum ChunkError {
    /// The backing file refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A chunk is forged or damaged.
    #[error("chunk {chunk}: {error}")]
    Chunk {
        /// Its number.
        chunk: u64,
        /// What is wrong with it.
        error: FormatError,
    },
    /// A map page is forged or damaged.
    #[error("map page {} of level {}: {error}", page.index, page.level)]
    Map {
        /// Which one.
        page: MapPage,
        /// What is wrong with it.
        error: FormatError,
    },
    /// The header is forged or damaged.
    #[error("header: {0}")]
    Header(#[from] FormatError),
    /// Larger than the format allows.
    #[error("the file would exceed the largest size of this format")]
    TooBig,
    /// The operating system gave no random numbers.
    #[error("no random numbers: {0}")]
    NoRandomness(#[from] getrandom::Error),
}
