//! What can be typed behind `kmsfs audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use crate::kms::audit::Mode;

/// What to do when the log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum AuditMode {
    /// Refuse calls
    #[default]
    Required,
    /// Carry them out, and let the log say later how many it lacks
    BestEffort,
}

impl From<AuditMode> for Mode {
    fn from(mode: AuditMode) -> Self {
        match mode {
            AuditMode::Required => Self::Required,
            AuditMode::BestEffort => Self::BestEffort,
        }
    }
}

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Show the last calls
    Tail(Tail),
    /// Search the calls
    Query(Query),
    /// Find out whether the log was changed
    ///
    /// Needs the unlocked key store. Says which lines it covered: earlier segments may have been
    /// archived; name the files of an archive to verify these instead. docs/AUDIT.md says what can be
    /// found.
    ///
    /// Exit codes: 32 something is wrong with the log.
    #[command(verbatim_doc_comment)]
    Verify {
        /// Files of an archive, uncompressed; the whole log if there are none
        files: Vec<PathBuf>,
    },
    /// Print calls as AWS CloudTrail delivers them: {"Records": [...]}
    Export(Filter),
}

/// Arguments of `audit tail`.
#[derive(Debug, Args)]
pub(super) struct Tail {
    /// Wait for more, until interrupted
    #[arg(short, long)]
    pub(super) follow: bool,
    /// So many of those that were before
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub(super) lines: usize,
    #[command(flatten)]
    pub(super) filter: Filter,
}

/// Arguments of `audit query`.
#[derive(Debug, Args)]
pub(super) struct Query {
    #[command(flatten)]
    pub(super) filter: Filter,
    /// The last so many of those that fit
    #[arg(long, value_name = "COUNT")]
    pub(super) limit: Option<usize>,
}

/// Which calls; all of what is given must fit.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Id or ARN of a key, or an alias as the caller named it
    #[arg(long)]
    pub(super) key: Option<String>,
    /// ARN or name of a user, or a uid
    #[arg(long)]
    pub(super) principal: Option<String>,
    /// Id of a file, as 'kmsfs file info' shows it
    #[arg(long, value_name = "ID")]
    pub(super) file: Option<String>,
    /// Operation, such as Decrypt
    #[arg(long, value_name = "NAME")]
    pub(super) event: Option<String>,
    /// Not before: 2026-01-31T12:00:00Z, or so long ago: 90s, 15m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) since: Option<Timestamp>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) until: Option<Timestamp>,
    /// Refused ones; with CODE those with this exception
    #[arg(long, value_name = "CODE", num_args = 0..=1, default_missing_value = "")]
    pub(super) error: Option<String>,
}

fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "not a time, as 2026-01-31T12:00:00Z, nor a duration, as 12h")?;
    let ago = SignedDuration::try_from(ago).map_err(|error| error.to_string())?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}
