//! What can be typed after `bench`.

use std::path::PathBuf;

use clap::Args;

use super::args::bytes;
use crate::format::layout::{DEFAULT_UNIT_SHIFT, MAX_UNIT_SHIFT};
use crate::tools::mount_speed::LARGE;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// A mount point, or a directory in a mount, to measure instead
    pub(super) directory: Option<PathBuf>,
    /// Seconds per measurement
    #[arg(long, default_value_t = 0.25, value_parser = seconds, conflicts_with = "directory", help_heading = IN_MEMORY)]
    pub(super) seconds: f64,
    /// Only these implementations of the cipher, as the table names them
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "directory", help_heading = IN_MEMORY)]
    pub(super) kernel: Vec<String>,
    /// Sizes of chunks on disk, powers of two from 4K to 1M
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_value = "4K,16K,64K", value_parser = chunk_size, conflicts_with = "directory", help_heading = IN_MEMORY)]
    pub(super) chunk_size: Vec<u64>,
    /// Size of the file that is written and read: 64M, 2G
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = stream_size, requires = "directory", help_heading = OF_MOUNT)]
    pub(super) size: u64,
    /// Number of small files
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), requires = "directory", help_heading = OF_MOUNT)]
    pub(super) files: u32,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000), requires = "directory", help_heading = OF_MOUNT)]
    pub(super) rounds: u32,
    /// Before what is measured cold, have the kernel empty all of its caches
    ///
    /// Names and attributes are cold too then. It slows the whole machine for a while, and only root may.
    #[arg(long, requires = "directory", help_heading = OF_MOUNT)]
    pub(super) drop_caches: bool,
    /// Measure DIRECTORY whatever filesystem it is on, to compare
    #[arg(long, requires = "directory", help_heading = OF_MOUNT)]
    pub(super) any_filesystem: bool,
}

const IN_MEMORY: &str = "Without a directory";
const OF_MOUNT: &str = "With a directory";

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.01..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("not between 0.01 and 3600".to_owned()) }
}

fn chunk_size(text: &str) -> Result<u64, String> {
    let size = bytes(text).ok().filter(|size| size.is_power_of_two());
    let sizes = 1 << DEFAULT_UNIT_SHIFT..=1 << MAX_UNIT_SHIFT;
    size.filter(|size| sizes.contains(size)).ok_or_else(|| "not a power of two from 4K to 1M".to_owned())
}

fn stream_size(text: &str) -> Result<u64, String> {
    let size = bytes(text)?;
    if size >= LARGE { Ok(size) } else { Err("less than 1M".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_chunks_are_those_of_the_format() {
        let parsed = ["4K", "1m", "65536", "2K", "2M", "5K", "x"].map(|text| chunk_size(text).ok());
        assert_eq!(parsed, [Some(4096), Some(1 << 20), Some(65536), None, None, None, None]);
    }
}
