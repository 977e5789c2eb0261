//! `bench`: a table of speeds.

use std::time::Duration;

use super::args::Bench;
use super::exit::CliResult;
use super::output::{Output, table};
use crate::tools::chunk_speed;
use crate::tools::speed::{SpeedOptions, SpeedRow};

pub(super) fn bench(bench: &Bench, output: &Output) -> CliResult<()> {
    let options = SpeedOptions {
        chunk_sizes: bench.chunk.iter().map(|kib| (*kib as usize * 1024) - 32).collect(),
        time: Duration::from_secs_f64(bench.seconds),
        ..SpeedOptions::default()
    };
    let rows = chunk_speed::run_all(&options);
    output.print(&rows, |rows| {
        let cells: Vec<Vec<String>> = rows.iter().map(row).collect();
        table(&["ALGORITHM", "IMPLEMENTATION", "OPERATION", "CHUNK", "BATCH", "MB/S"], &cells)
    })
}

fn row(row: &SpeedRow) -> Vec<String> {
    vec![
        row.algorithm.to_owned(),
        row.implementation.to_owned(),
        format!("{:?}", row.operation).to_lowercase(),
        row.chunk_size_bytes.to_string(),
        row.batch.to_string(),
        format!("{:.0}", row.bytes_per_second / 1e6),
    ]
}
