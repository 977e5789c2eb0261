//! fio on files of a mount whose process gets killed: every block carries its checksum afterwards,
//! but for those that were just being written.

use std::path::Path;
use std::process::Command;

use crate::common::{Ran, run_within};
use crate::{CONFIGURATIONS, LOAD_TIMEOUT};

/// What it says of a block whose checksum is wrong, before the file and the offset.
const FAILED: &str = "verify failed at file ";
/// Bytes of each file.
const SIZE: u64 = 2_032_000;
/// More bytes than any round has time for.
const ENDLESS: u64 = 100_000 * SIZE;

/// Gives every block its first version.
pub(crate) fn lay(dir: &Path, scratch: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    fio(dir, scratch, "write", SIZE, 0).ok();
}

/// Overwrites blocks until that fails.
pub(crate) fn overwrite(dir: &Path, scratch: &Path, seed: u64) {
    let ran = fio(dir, scratch, "randwrite", ENDLESS, seed);
    assert_ne!(ran.code, 0, "fio came to an end: {ran:?}");
    assert!(!ran.stderr.contains("verify failed"), "{ran:?}");
}

/// Why blocks hold what nobody wrote. Those that a write under way has left in two parts get a new
/// version.
pub(crate) fn difference(dir: &Path, scratch: &Path) -> Option<String> {
    let ran = fio(dir, scratch, "read", SIZE, 0);
    if ran.code == 0 {
        return None;
    }
    let wrong: Vec<&str> =
        ran.stderr.lines().filter_map(|line| line.split_once(FAILED)).map(|l| l.1).collect();
    // What a job has under way is one block. The kernel passes a buffered one on in two parts where
    // it has not read the first page of it; a direct one is passed on as a whole.
    let torn = |job: &&str| wrong.iter().filter(|line| line.contains(*job)).count() == 1;
    let jobs: Vec<&str> = ["/buffered.", "/synced."].into_iter().filter(torn).collect();
    if wrong.is_empty() || jobs.len() < wrong.len() {
        return Some(format!("fio in {}: {ran:?}", dir.display()));
    }
    lay(dir, scratch);
    None
}

fn fio(dir: &Path, scratch: &Path, rw: &str, bytes: u64, seed: u64) -> Ran {
    let mut command = Command::new("fio");
    // What it verifies was written by another run.
    command.args(["--output-format=terse", "--do_verify=0"]).arg(format!("{CONFIGURATIONS}/blocks.fio"));
    command.env("DIRECTORY", dir).env("RW", rw).env("IO_SIZE", bytes.to_string());
    command.env("SEED", seed.to_string()).current_dir(scratch);
    run_within(LOAD_TIMEOUT, command)
}
