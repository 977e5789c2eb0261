//! Where messages go: to the terminal, or to a mount's log file once it is in the background.

use std::fs::File;
use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::exit::{CliError, CliResult};

/// Bytes beyond which a log file is put aside for a new one.
const MAX_LOG_LEN: u64 = 8 << 20;

/// Sends messages to standard error.
pub(super) fn to_stderr(verbose: u8) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose, LevelFilter::WARN))
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .try_init();
}

/// Sends messages to a file, keeping one older file beside it.
pub(super) fn to_file(path: &Path, verbose: u8) -> CliResult<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| CliError::io(dir, &e))?;
    }
    if std::fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG_LEN) {
        std::fs::rename(path, path.with_extension("log.old")).map_err(|e| CliError::io(path, &e))?;
    }
    let file = File::options().create(true).append(true).open(path).map_err(|e| CliError::io(path, &e))?;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose, LevelFilter::INFO))
        .with_writer(file)
        .with_ansi(false)
        .with_target(false)
        .try_init();
    Ok(())
}

fn filter(verbose: u8, quiet: LevelFilter) -> EnvFilter {
    let level = match verbose {
        0 => quiet,
        1 => quiet.max(LevelFilter::INFO),
        _ => LevelFilter::DEBUG,
    };
    // The FUSE library logs every request.
    EnvFilter::new(format!("{level},fuser=error"))
}
