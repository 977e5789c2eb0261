//! fsx on files of a mount whose process gets killed. It tells which operation it began last, and
//! does the same again from the same seed: so what its file must hold is known from a plain one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Ran, run_within};
use crate::ledger::mixture;
use crate::{CONFIGURATIONS, LOAD_TIMEOUT};

/// More operations than any round has time for.
const ENDLESS: u64 = 10_000_000;

/// One run of fsx.
pub(crate) struct Fsx {
    pub(crate) file: PathBuf,
    pub(crate) seed: u64,
}

impl Fsx {
    /// Runs until an operation fails. Tells the number of the operation that it began last.
    pub(crate) fn run(&self, scratch: &Path) -> u64 {
        let ran = fsx(&self.file, self.seed, ENDLESS, scratch);
        assert_ne!(ran.code, 0, "fsx -S {} came to an end", self.seed);
        let steps = ran.stdout.lines().chain(ran.stderr.lines()).filter_map(step);
        // At its end it repeats what it did, as errors.
        steps.max().unwrap_or(0)
    }

    /// Why the file does not hold what operations before `last` left, and of `last` any part.
    pub(crate) fn difference(&self, last: u64, scratch: &Path) -> Option<String> {
        // Not even the first one began: the file may be about to be emptied.
        let before = last.checked_sub(1)?;
        let [old, new] = [before, last].map(|operations| self.replayed(operations, scratch));
        let what = match fs::read(&self.file) {
            Ok(found) => mixture(&found, &old, &new)?,
            Err(error) => error.to_string(),
        };
        Some(format!("{}: fsx -S {} -N {last}: {what}", self.file.display(), self.seed))
    }

    /// The bytes that so many operations leave in a plain file.
    fn replayed(&self, operations: u64, scratch: &Path) -> Vec<u8> {
        let file = scratch.join("replayed");
        fs::write(&file, "").unwrap();
        if operations > 0 {
            let ran = fsx(&file, self.seed, operations, scratch);
            assert_eq!(ran.code, 0, "fsx -S {} -N {operations}: {}{}", self.seed, ran.stdout, ran.stderr);
        }
        fs::read(&file).unwrap()
    }
}

fn fsx(file: &Path, seed: u64, operations: u64, scratch: &Path) -> Ran {
    let mut command = Command::new("fsx");
    command.arg("-v").arg("-f").arg(format!("{CONFIGURATIONS}/fsx.toml"));
    command.args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
    command.arg("-P").arg(scratch).arg(file).current_dir(scratch);
    run_within(LOAD_TIMEOUT, command)
}

/// The number of an operation that is about to be done: `[INFO  fsx]  8 write 0x10 .. 0x20`.
fn step(line: &str) -> Option<u64> {
    line.strip_prefix("[INFO  fsx]")?.split_whitespace().next()?.parse().ok()
}
