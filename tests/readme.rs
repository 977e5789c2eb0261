//! What README.md and `--help` say is so.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

/// Commands that have commands of their own.
const GROUPS: [&str; 12] = [
    "access-key",
    "alias",
    "custom-key-store",
    "file",
    "grant",
    "key",
    "key import",
    "key rotation",
    "policy",
    "store",
    "tag",
    "volume",
];

#[test]
fn every_command_in_the_readme_exists() {
    let commands = commands(&readme());
    for expected in ["init", "mount", "umount", "key disable", "key assign", "file info", "status"] {
        assert!(commands.contains_key(expected), "README.md does not show 'kmsfs {expected}'");
    }
    for (command, options) in commands {
        let help = help(&command);
        for option in options {
            assert!(help.contains(&option), "'kmsfs {command}' has no {option}");
        }
    }
}

#[test]
fn every_command_in_the_pages_about_backups_and_keys_exists() {
    for page in ["docs/BACKUP.md", "docs/KEYS.md", "docs/MOVING.md"] {
        let commands = commands(&fs::read_to_string(root().join(page)).unwrap());
        assert!(commands.len() >= 6, "{page}: {commands:?}");
        for (command, options) in commands {
            let help = help(&command);
            for option in options {
                assert!(help.contains(&option), "'kmsfs {command}' has no {option}");
            }
        }
    }
}

#[test]
fn every_option_in_the_readme_exists() {
    let help = help("mount");
    let readme = readme();
    let spans = readme.split('`').skip(1).step_by(2);
    for option in spans.filter(|span| span.starts_with("--")) {
        let name = option.split(' ').next().unwrap();
        assert!(help.contains(name), "there is no option {name}");
    }
}

#[test]
fn every_file_in_the_readme_exists() {
    let readme = readme();
    let linked = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local: Vec<&str> = linked.filter(|target| !target.starts_with("http")).collect();
    assert!(!local.is_empty());
    for target in local {
        let (path, heading) = target.split_once('#').unwrap_or((target, ""));
        let path = root().join(path);
        assert!(path.exists(), "{} does not exist", path.display());
        if !heading.is_empty() {
            let anchor = |line: &str| line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-");
            let text = fs::read_to_string(&path).unwrap();
            let found = text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
            assert!(found, "{} has no heading #{heading}", path.display());
        }
    }
}

#[test]
fn the_scripts_in_the_readme_can_be_run() {
    for script in ["scripts/demo", "scripts/test"] {
        assert!(readme().contains(script));
        let mode = fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
    }
}

#[test]
fn the_exit_codes_in_the_help_are_those_of_the_program() {
    let source = fs::read_to_string(root().join("src/cli/exit.rs")).unwrap();
    let variants = source.split("enum Code {").nth(1).unwrap().split('}').next().unwrap();
    let mut codes: BTreeSet<u8> = variants
        .split(',')
        .filter_map(|variant| variant.split_once('='))
        .map(|(_, code)| code.trim().parse().unwrap())
        .collect();
    assert!(codes.len() > 10);
    codes.insert(0);

    let help = run(&["--help"]);
    let listed: Vec<u8> = help
        .split("Exit codes:\n")
        .nth(1)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<u8>>(), codes);
    assert!(listed.is_sorted() && listed.len() == codes.len());
}

/// Commands that a text shows or names, with the options that they are given.
fn commands(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let shown = text.lines().filter_map(|line| line.strip_prefix("$ "));
    let scripts = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let shown = shown.chain(scripts.flat_map(str::lines));
    let named = text.split('`').skip(1).step_by(2).filter(|span| !span.contains('\n'));
    for line in shown.chain(named) {
        let Some(arguments) = line.strip_prefix("kmsfs ") else { continue };
        let mut words = arguments.split(' ');
        let mut command = words.next().unwrap().to_owned();
        if command.starts_with('-') {
            continue;
        }
        while GROUPS.contains(&command.as_str()) {
            command = format!("{command} {}", words.next().unwrap());
        }
        let options = words.filter(|word| word.starts_with('-')).map(str::to_owned);
        found.entry(command).or_default().extend(options);
    }
    found
}

fn help(command: &str) -> String {
    run(&[&["help"], command.split(' ').collect::<Vec<_>>().as_slice()].concat())
}

fn run(arguments: &[&str]) -> String {
    let assert = Command::new(env!("CARGO_BIN_EXE_kmsfs")).args(arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
