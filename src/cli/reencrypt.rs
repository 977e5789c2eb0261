//! `file set-key --new-data-key`: new data keys for files, and their contents under those.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::args::{Global, SetKey};
use super::exit::{CliError, CliResult, Code};
use super::fsck::{Showing, stop_flag};
use super::key_store::KeyStore;
use super::output::{Output, count};
use super::rewrap::{ShownLeft, assigned, left_lines, tops};
use crate::tools::rewrap::{Moment, Reencrypted, Tally, reencrypt};

pub(super) fn set_key(global: &Global, asked: &SetKey, output: &Output) -> CliResult<ExitCode> {
    let store = KeyStore::open(global)?;
    let key = store.describe(&asked.key)?.arn;
    let mut whole = Reencrypted::default();
    for (tree, top) in tops(asked)? {
        let stop = stop_flag().map_err(|e| CliError::io(&top.path, &e))?;
        let showing = Showing::wanted(global);
        let tally = Tally::new(showing.is_some());
        let outcome = showing.around(&|| progress_line(&tally.now()), || {
            reencrypt(&tree, &top, &key, asked.limit, &tally, &stop)
        });
        add(&mut whole, outcome);
        if whole.cancelled {
            break;
        }
    }
    let shown = Shown::new(asked.paths.clone(), key, whole);
    output.print(&shown, Shown::lines)?;
    Ok(ExitCode::from(shown.exit_code))
}

fn add(whole: &mut Reencrypted, part: Reencrypted) {
    whole.files += part.files;
    whole.bytes += part.bytes;
    whole.assigned += part.assigned;
    whole.left.extend(part.left);
    whole.left_count += part.left_count;
    whole.cancelled |= part.cancelled;
}

fn progress_line(moment: &Moment) -> String {
    let Moment { total, seen, rewrapped, bytes, elapsed, .. } = *moment;
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let rate = mebibytes / elapsed.as_secs_f64().max(0.001);
    format!("{seen} of {total} files, {rewrapped} re-encrypted, {mebibytes:.0} MiB, {rate:.0} MiB/s")
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    paths: Vec<PathBuf>,
    key_arn: String,
    reencrypted: u64,
    bytes: u64,
    directories_assigned: u64,
    left_count: u64,
    left: Vec<ShownLeft>,
    cancelled: bool,
    exit_code: u8,
}

impl Shown {
    fn new(paths: Vec<PathBuf>, key_arn: String, outcome: Reencrypted) -> Self {
        let exit_code = match &outcome {
            outcome if outcome.cancelled => Code::Interrupted as u8,
            outcome if outcome.is_complete() => 0,
            _ => Code::NotReencrypted as u8,
        };
        Self {
            paths,
            key_arn,
            reencrypted: outcome.files,
            bytes: outcome.bytes,
            directories_assigned: outcome.assigned,
            left_count: outcome.left_count,
            left: outcome.left.into_iter().map(ShownLeft::new).collect(),
            cancelled: outcome.cancelled,
            exit_code,
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = left_lines(&self.left, self.left_count);
        let mut last = format!("re-encrypted {}, {} bytes", count(self.reencrypted, "file"), self.bytes);
        last += &assigned(self.directories_assigned);
        if self.cancelled {
            last.push_str(" (ended by a signal; the same command goes on with the file that it was at)");
        } else if self.left_count > 0 {
            let _ = write!(last, "; {} left, which read as before", self.left_count);
        }
        lines.push(last);
        lines
    }
}
