//! The building stands: modules import only from floors below, and what is fenced in stays in.
//!
//! Sources are compared as tokens, so a comment or a string never counts.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules of the crate by floor, the ground floor first.
const FLOORS: [&[&str]; 7] = [
    &["secret", "codec", "sys", "clock", "sync", "sigv4"],
    &["crypto", "xks"],
    &["format", "kms"],
    &["chunk", "names", "provider"],
    &["fs"],
    &["check", "mount", "server", "tools"],
    &["cli"],
];

/// Words that only some places may use, and why.
const FENCES: [Fence; 6] = [
    Fence { word: "fuser", within: &["mount"], because: "the adapter alone knows the FUSE library" },
    Fence { word: "clap", within: &["cli", "main.rs"], because: "the command line alone parses arguments" },
    Fence {
        word: "parking_lot",
        within: &["sync", "secret", "clock", "provider/client", "check", "mount", "server"],
        because: "what is tried in every order of events takes its locks from `sync`",
    },
    Fence {
        word: "xks",
        within: &["xks", "kms/service", "lib.rs"],
        because: "the key service alone asks other key managers",
    },
    Fence {
        word: "hyper",
        within: &["xks/transport", "server/http"],
        because: "HTTP is spoken in two places: with clients, and with the proxies of external key stores",
    },
    Fence {
        word: "unsafe",
        within: &["sys", "secret", "crypto/kernel"],
        because: "memory safety is argued for in three places only",
    },
];

/// Lines of a file before its tests.
const MAX_LINES: usize = 500;

#[test]
fn every_module_stays_on_its_floor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&root);
    assert!(!files.is_empty(), "no sources under {}", root.display());
    let breaches: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
            breaches(path, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

struct Fence {
    word: &'static str,
    /// Paths under `src`, without `.rs`, that may use the word, with everything below them.
    within: &'static [&'static str],
    because: &'static str,
}

/// What is wrong with the file at `path`, relative to `src`; one line each.
fn breaches(path: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut found = floor_breaches(path, &tokens);
    for fence in FENCES {
        if !fence.within.iter().any(|place| is_within(path, place)) {
            for token in tokens.iter().filter(|token| token.text == fence.word) {
                found.push(format!("src/{path}:{}: names `{}`: {}", token.line, fence.word, fence.because));
            }
        }
    }
    let lines = lines_before_tests(source);
    if lines > MAX_LINES {
        found.push(format!("src/{path}: {lines} lines before its tests, of {MAX_LINES} allowed"));
    }
    found
}

fn floor_breaches(path: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let own = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    if own == "lib" || own == "main" {
        return Vec::new();
    }
    let Some(own_floor) = floor(own) else {
        return vec![format!("src/{path}: `{own}` stands on no floor; give it one in tests/layering.rs")];
    };
    let mut found = Vec::new();
    for (used, line) in root_imports(path, tokens) {
        let place = format!("src/{path}:{line}: `{own}` on floor {own_floor} imports `{used}`");
        match floor(used) {
            _ if used == own => {}
            Some(floor) if floor < own_floor => {}
            Some(floor) => found.push(format!("{place} from floor {floor}")),
            None => found.push(format!("{place}, which stands on no floor")),
        }
    }
    found
}

/// Floors count from 1, as in the table in `src/lib.rs`.
fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module)).map(|index| index + 1)
}

fn is_within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
}

/// Every name taken from the crate's root with its line, whether in a `use`, a group of one, or
/// a path in the code. Climbing to the root with `super` counts as `crate`.
fn root_imports<'a>(path: &str, tokens: &[Token<'a>]) -> Vec<(&'a str, usize)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let after = match token.text {
            "crate" => at + 1,
            "super" if starts_climb(tokens, at) => {
                let climbs = climbs(&tokens[at..]);
                if climbs < depth(path) + inline_depth(&tokens[..at]) {
                    continue;
                }
                at + 2 * climbs - 1
            }
            _ => continue,
        };
        match tokens.get(after..) {
            Some([colons, first, ..]) if colons.text == "::" => {
                if first.text == "{" {
                    found.extend(group_heads(&tokens[after + 1..]));
                } else {
                    found.push((first.text, first.line));
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether the `super` at `at` begins a climb, rather than continuing one.
fn starts_climb(tokens: &[Token<'_>], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map_or("", |index| tokens[index].text);
    before(1) != "::" || before(2) != "super"
}

/// How many `super`s in a row a path begins with.
fn climbs(tokens: &[Token<'_>]) -> usize {
    let mut pairs = tokens.chunks(2);
    let continued = pairs
        .by_ref()
        .take_while(|pair| pair[0].text == "super" && pair.get(1).is_some_and(|t| t.text == "::"));
    continued.count()
}

/// Steps from a file's module up to the crate's root: 1 for `fs/mod.rs` and `fs.rs`, 2 for `fs/read.rs`.
fn depth(path: &str) -> usize {
    path.split('/').filter(|part| *part != "mod.rs").count()
}

/// How many inline modules are open at the end of `tokens`.
fn inline_depth(tokens: &[Token<'_>]) -> usize {
    let mut open = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => open.push(at >= 2 && tokens[at - 2].text == "mod"),
            "}" => drop(open.pop()),
            _ => {}
        }
    }
    open.iter().filter(|is_module| **is_module).count()
}

/// The first name of each element of the group that `tokens` begins with.
fn group_heads<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, usize)> {
    let mut heads = Vec::new();
    let (mut depth, mut at_head) = (0, false);
    for token in tokens {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if at_head => heads.push((token.text, token.line)),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        at_head = depth == 1 && matches!(token.text, "{" | ",");
    }
    heads
}

/// A file's unit tests come last, in a module behind `#[cfg(test)]`. The attribute on anything
/// else does not end the count.
fn lines_before_tests(source: &str) -> usize {
    let lines: Vec<&str> = source.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    tests.unwrap_or(lines.len())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Words, `::` and single punctuation marks; comments, strings and white space are left out.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (len, is_code) = next_token(rest, first);
        let (text, tail) = rest.split_at(len);
        if is_code {
            found.push(Token { text: text.strip_prefix("r#").unwrap_or(text), line });
        }
        line += text.matches('\n').count();
        rest = tail;
    }
    found
}

/// The length of what `rest` begins with, and whether it is a token.
fn next_token(rest: &str, first: char) -> (usize, bool) {
    if first.is_whitespace() {
        (first.len_utf8(), false)
    } else if rest.starts_with("//") {
        (rest.find('\n').unwrap_or(rest.len()), false)
    } else if rest.starts_with("/*") {
        (block_comment_len(rest), false)
    } else if let Some(len) = raw_string_len(rest) {
        (len, false)
    } else if first == '"' {
        (quoted_len(rest, '"'), false)
    } else if first == '\'' {
        // A lifetime's tick is a mark of its own; a character is left out whole.
        let mut ahead = rest.chars().skip(1);
        let is_char = ahead.next() == Some('\\') || ahead.next() == Some('\'');
        if is_char { (quoted_len(rest, '\''), false) } else { (1, true) }
    } else if rest.starts_with("r#") || first == '_' || first.is_alphanumeric() {
        let from = if rest.starts_with("r#") { 2 } else { 0 };
        let len = rest[from..].find(|c: char| c != '_' && !c.is_alphanumeric());
        (len.map_or(rest.len(), |len| from + len), true)
    } else if rest.starts_with("::") {
        (2, true)
    } else {
        (first.len_utf8(), true)
    }
}

fn block_comment_len(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the raw string that `rest` begins with, if it does: `r"…"`, `br#"…"#`.
fn raw_string_len(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|after| after.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let start = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// The length of the literal that `rest` begins with, its quotes included.
fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

mod checker {
    use super::*;

    #[track_caller]
    fn assert_clean(path: &str, source: &str) {
        assert_eq!(breaches(path, source), Vec::<String>::new());
    }

    #[track_caller]
    fn assert_breach(path: &str, source: &str, message: &str) {
        assert_eq!(breaches(path, source), [message]);
    }

    #[test]
    fn imports_from_below_and_from_the_own_module_pass() {
        assert_clean("fs/read.rs", "use crate::chunk::Range;\nuse crate::{codec, crypto::aead, fs::Inode};");
        assert_clean("crypto/aead.rs", "use crate::secret::Key;\nuse super::kdf;\npub(crate) fn f() {}");
        assert_clean("cli/mod.rs", "use crate::tools::speed; use clap::Parser;");
    }

    #[test]
    fn an_import_from_above_fails() {
        assert_breach(
            "crypto/aead.rs",
            "//! Doc.\nuse crate::format::Header;",
            "src/crypto/aead.rs:2: `crypto` on floor 2 imports `format` from floor 3",
        );
    }

    #[test]
    fn an_import_from_a_neighbour_fails() {
        assert_breach(
            "codec/mod.rs",
            "use crate::secret::Key;",
            "src/codec/mod.rs:1: `codec` on floor 1 imports `secret` from floor 1",
        );
        assert_breach(
            "format.rs",
            "fn f() {\n    crate::kms::sign();\n}",
            "src/format.rs:2: `format` on floor 3 imports `kms` from floor 3",
        );
    }

    #[test]
    fn every_element_of_a_group_counts() {
        assert_eq!(
            breaches("kms/mod.rs", "use crate::{\n  codec::{self, Reader},\n  fs::{a, mount},\n  cli,\n};"),
            [
                "src/kms/mod.rs:3: `kms` on floor 3 imports `fs` from floor 5",
                "src/kms/mod.rs:4: `kms` on floor 3 imports `cli` from floor 7",
            ]
        );
    }

    #[test]
    fn super_cannot_slip_past_the_own_module() {
        assert_clean("kms/store/mod.rs", "use super::log;");
        assert_clean("kms/store/log.rs", "use super::super::log;");
        assert_clean("kms/mod.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n}");
        let expected = |line| format!("src/kms/store.rs:{line}: `kms` on floor 3 imports `fs` from floor 5");
        assert_breach("kms/store.rs", "use super::super::fs::Inode;", &expected(1));
        assert_breach("kms/store.rs", "use self::super::super::fs::Inode;", &expected(1));
        assert_breach("kms/store.rs", "mod inner {\n    use super::super::super::{fs};\n}", &expected(2));
    }

    #[test]
    fn an_unknown_module_needs_a_floor() {
        assert_breach(
            "helpers.rs",
            "",
            "src/helpers.rs: `helpers` stands on no floor; give it one in tests/layering.rs",
        );
        assert_breach(
            "fs/mod.rs",
            "use crate::helpers;",
            "src/fs/mod.rs:1: `fs` on floor 5 imports `helpers`, which stands on no floor",
        );
        assert_breach(
            "fs/mod.rs",
            "use crate::*;",
            "src/fs/mod.rs:1: `fs` on floor 5 imports `*`, which stands on no floor",
        );
    }

    #[test]
    fn comments_and_strings_do_not_count() {
        assert_clean(
            "codec/mod.rs",
            r##"
            //! [`crate::fs`], unsafe
            /* use crate::fs; /* fuser */ clap */
            const A: &str = "unsafe \" crate::fs";
            const B: &str = r#"" clap "#;
            const C: [char; 2] = ['"', '\''];
            fn f<'a>(x: &'a str) -> &'a str { x }
            "##,
        );
    }

    #[test]
    fn code_after_a_string_still_counts() {
        let message = "src/codec/mod.rs:2: names `clap`: the command line alone parses arguments";
        for before in ["'\"'", "\"\\\\\"", "r#\"\"\"#", "b'\\''", "/* \" */ 0", "<'a>()"] {
            assert_breach("codec/mod.rs", &format!("let x = {before};\nclap"), message);
        }
    }

    #[test]
    fn fenced_words_stay_in_their_places() {
        assert_clean("mount/adapter.rs", "use fuser::Filesystem;");
        assert_clean("main.rs", "use clap::Parser;");
        assert_clean("crypto/kernel/avx512.rs", "unsafe { f() }");
        assert_clean("crypto/kernel.rs", "unsafe { f() }");
        assert_clean("lib.rs", "#![deny(unsafe_code)]");
        assert_breach(
            "crypto/kernels.rs",
            "unsafe {}",
            "src/crypto/kernels.rs:1: names `unsafe`: memory safety is argued for in three places only",
        );
        assert_breach(
            "fs/mod.rs",
            "fn f(_: fuser::INodeNo) {}",
            "src/fs/mod.rs:1: names `fuser`: the adapter alone knows the FUSE library",
        );
        assert_breach(
            "tools/mod.rs",
            "use clap::Args;",
            "src/tools/mod.rs:1: names `clap`: the command line alone parses arguments",
        );
    }

    #[test]
    fn a_long_file_fails_and_its_tests_do_not_count() {
        let (short, long) = ("\n".repeat(MAX_LINES), "\n".repeat(MAX_LINES + 1));
        assert_clean("fs/mod.rs", &short);
        assert_clean("fs/mod.rs", &format!("{short}#[cfg(test)]\nmod tests {{\n{long}}}\n"));
        let message = "src/fs/mod.rs: 501 lines before its tests, of 500 allowed";
        assert_breach("fs/mod.rs", &long, message);
        // A test-only import at the top exempts nothing.
        let sneaky = format!("#[cfg(test)]\nuse std::fs;\n{}", "\n".repeat(MAX_LINES - 1));
        assert_breach("fs/mod.rs", &sneaky, message);
    }
}
