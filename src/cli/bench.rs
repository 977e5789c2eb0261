//! `bench`: how fast this machine encrypts, or with a directory, how fast a mount is.

use std::time::Duration;

use super::bars::{Bars, Counts};
use super::bench_args::Bench;
use super::bench_mount;
use super::exit::{CliError, CliResult, Code};
use super::fsck::size;
use super::output::{Output, table};
use crate::crypto::aead;
use crate::format::layout::UNIT_HEAD_LEN;
use crate::tools::chunk_speed;
use crate::tools::speed::{SpeedOptions, SpeedRow};

pub(super) fn bench(bench: &Bench, output: &Output) -> CliResult<()> {
    if let Some(directory) = &bench.directory {
        return bench_mount::bench(directory, bench, output);
    }
    let options = SpeedOptions {
        implementations: implementations(&bench.kernel)?,
        chunk_sizes: bench.chunk_size.iter().map(|unit| *unit as usize - UNIT_HEAD_LEN).collect(),
        time: Duration::from_secs_f64(bench.seconds),
        ..SpeedOptions::default()
    };
    let rows = chunk_speed::run_all(&options);
    output.print(&rows, |rows| {
        let mut header = vec!["WHAT", "KERNEL", "OPERATION", "CHUNK", "MB/S"];
        let mut cells: Vec<Vec<String>> = rows.iter().map(row).collect();
        let values: Vec<_> = rows.iter().map(|row| (row.bytes_per_second, Counts::Yes)).collect();
        Bars::append(&mut cells, &values);
        header.push("");
        table(&header, &cells)
    })
}

fn row(row: &SpeedRow) -> Vec<String> {
    vec![
        row.algorithm.to_owned(),
        row.implementation.to_owned(),
        format!("{:?}", row.operation).to_lowercase(),
        size((row.chunk_size_bytes + UNIT_HEAD_LEN) as f64),
        format!("{:.0}", row.bytes_per_second / 1e6),
    ]
}

/// The names of those that are asked for, or of all that run here.
fn implementations(asked: &[String]) -> CliResult<Vec<&'static str>> {
    let known: Vec<&'static str> = aead::all().iter().map(|aead| aead.name()).collect();
    if asked.is_empty() {
        return Ok(known);
    }
    if let Some(unknown) = asked.iter().find(|name| !known.contains(&name.as_str())) {
        let known = known.join(", ");
        let message = format!("no kernel '{unknown}' runs on this machine; these do: {known}");
        return Err(CliError::new(Code::Usage, message));
    }
    Ok(known.into_iter().filter(|name| asked.iter().any(|asked| asked == name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_do_not_run_here_are_refused_with_those_that_do() {
        assert_eq!(implementations(&[]).unwrap().len(), aead::all().len());
        assert_eq!(implementations(&["portable".to_owned()]).unwrap(), ["portable"]);
        let error = implementations(&["portable".to_owned(), "vax".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("'vax'") && error.contains("these do: portable"), "{error}");
    }
}
