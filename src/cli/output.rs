//! Printing: tables for people, JSON for programs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::exit::{CliError, CliResult, Code};

/// How to print.
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `value` as JSON, or what `lines` makes of it.
    pub(super) fn print<T: Serialize>(
        &self,
        value: &T,
        lines: impl FnOnce(&T) -> Vec<String>,
    ) -> CliResult<()> {
        if self.json {
            let text = serde_json::to_string_pretty(value)
                .map_err(|e| CliError::new(Code::Unexpected, e.to_string()))?;
            println!("{text}");
        } else {
            lines(value).iter().for_each(|line| println!("{line}"));
        }
        Ok(())
    }

    /// Says something to a person that is not the result.
    pub(super) fn note(&self, text: &str) {
        if !self.json || std::io::stderr().is_terminal() {
            eprintln!("{text}");
        }
    }

    /// Whether there is a person who sees a question and can answer it.
    pub(super) fn can_ask(&self) -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// The line that a person answers a question with; nothing at the end of the input.
    pub(super) fn ask(&self, question: &str) -> CliResult<String> {
        let failed = |error: std::io::Error| CliError::io("the terminal".as_ref(), &error);
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).map_err(failed)?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(failed)?;
        if !line.ends_with('\n') {
            eprintln!();
        }
        Ok(line)
    }

    /// Says something that a person must not miss.
    pub(super) fn warn(&self, text: &str) {
        eprintln!("kmsfs: warning: {text}");
    }

    pub(super) fn error(&self, error: &CliError) {
        if self.json {
            eprintln!("{}", error.to_json());
        } else {
            eprintln!("kmsfs: {error}");
        }
    }
}

/// A number of things: `1 file`, `2 files`.
pub(super) fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Lines of a table with aligned columns.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines
}

/// Lines of names and values.
pub(super) fn fields(fields: &[(&str, String)]) -> Vec<String> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["1".into(), "x".into()], vec!["100".into(), String::new()]];
        assert_eq!(table(&["ID", "NAME"], &rows), ["ID   NAME", "1    x", "100"]);
        assert_eq!(fields(&[("a", "1".into()), ("bcd", "2".into())]), ["a    1", "bcd  2"]);
    }
}
