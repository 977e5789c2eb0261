//! docs/SEMANTICS.md names a test for each promise: they exist.
#![allow(clippy::unwrap_used)]

use std::fs;

/// The pieces of a line between backquotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_is_named_exists() {
    let page = fs::read_to_string("docs/SEMANTICS.md").unwrap();
    let mut named = 0;
    for (file, function) in page.lines().flat_map(quoted).filter_map(|name| name.rsplit_once("::")) {
        let file = file.replace("::", "/");
        // A test program is a file, or a folder with a `main.rs`.
        let sources = [format!("tests/{file}.rs"), format!("tests/{file}/main.rs")];
        let source = sources.iter().find_map(|path| fs::read_to_string(path).ok());
        let source = source.unwrap_or_else(|| panic!("there is no tests/{file}.rs"));
        let lines = source.lines().zip(source.lines().skip(1));
        let definition = format!("fn {function}(");
        let is_test = |(attribute, line): (&str, &str)| {
            attribute.trim() == "#[test]" && line.trim().starts_with(&definition)
        };
        assert!(lines.into_iter().any(is_test), "tests/{file}.rs has no test {function}");
        named += 1;
    }
    assert!(named > 50, "only {named} tests are named");
}

#[test]
fn every_promise_names_its_test() {
    let page = fs::read_to_string("docs/SEMANTICS.md").unwrap();
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let unproven: Vec<&str> = rows.filter(|row| row.trim_end().ends_with("| — |")).collect();
    assert!(unproven.is_empty(), "no test for {unproven:#?}");
}
