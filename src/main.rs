//! The `kmsfs` program; see `kmsfs --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kmsfs::cli::main()
}
