//! `file`, and assigning keys to directories: through the mount itself, so that no key store need
//! be opened.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use serde::Serialize;
use serde_json::{Map, Value};

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::key_store::{KeyStore, dir, is_served};
use super::output::{Output, fields};
use crate::fs::{INFO_XATTR, KEY_XATTR};
use crate::kms::api::{ListAliasesRequest, ListAliasesResponse};

/// Bytes that a description of a file or a key's ARN takes at most.
const MAX_LEN: usize = 8192;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Assigned {
    directory: PathBuf,
    key_arn: String,
    /// Directories below that followed.
    subdirectories: u64,
}

pub(super) fn info(global: &Global, paths: &[PathBuf], output: &Output) -> CliResult<()> {
    let infos: Vec<Map<String, Value>> =
        paths.iter().map(|path| describe(global, path)).collect::<CliResult<_>>()?;
    output.print(&infos, |infos| {
        let mut lines = Vec::new();
        for info in infos {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            let mut rows: Vec<(String, String)> =
                info.iter().map(|(name, value)| (name.replace('_', " "), plain(value))).collect();
            rows.sort_by_key(|(name, _)| name != "path");
            let rows: Vec<(&str, String)> = rows.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
            lines.extend(fields(&rows));
        }
        lines
    })
}

pub(super) fn assign(key: &str, directory: &Path, output: &Output) -> CliResult<()> {
    if !directory.is_dir() {
        return Err(CliError::new(
            Code::Usage,
            format!("{} is not a directory; name one", directory.display()),
        ));
    }
    read(directory, INFO_XATTR).map_err(|e| not_ours(directory, &e))?;
    let before = read(directory, KEY_XATTR).ok();
    set(directory, key)?;
    let arn = read(directory, KEY_XATTR).map_err(|e| CliError::io(directory, &e))?;
    let mut followed = 0;
    // What was inherited is told from what was chosen by being the same.
    if before.as_ref() != Some(&arn) && !is_root(directory) {
        follow(directory, before.as_deref(), &arn, &mut followed)?;
    }
    let assigned = Assigned { directory: directory.to_owned(), key_arn: text(arn), subdirectories: followed };
    output.print(&assigned, |a| {
        let below = match a.subdirectories {
            0 => String::new(),
            1 => " and a directory below it".to_owned(),
            n => format!(" and {n} directories below it"),
        };
        vec![format!("new files in {}{below} get {}", a.directory.display(), a.key_arn)]
    })
}

/// Assigns the key to the directories below whose assignment is still the one that was inherited.
fn follow(directory: &Path, before: Option<&[u8]>, arn: &[u8], followed: &mut u64) -> CliResult<()> {
    for entry in std::fs::read_dir(directory).map_err(|e| CliError::io(directory, &e))? {
        let entry = entry.map_err(|e| CliError::io(directory, &e))?;
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && read(&path, KEY_XATTR).ok().as_deref() == before {
            set(&path, &text(arn.to_vec()))?;
            *followed += 1;
            follow(&path, before, arn, followed)?;
        }
    }
    Ok(())
}

fn set(directory: &Path, key: &str) -> CliResult<()> {
    rustix::fs::setxattr(directory, KEY_XATTR, key.as_bytes(), XattrFlags::empty()).map_err(|e| {
        match e.raw_os_error() {
            libc::EKEYREJECTED => {
                CliError::new(Code::NoSuchKey, format!("there is no key {key}; 'kmsfs key list' shows them"))
            }
            libc::ENOKEY => CliError::new(
                Code::StoreInUse,
                "the mount cannot reach its key store; start the process that owns it, then retry",
            ),
            _ => CliError::io(directory, &e.into()),
        }
    })
}

fn describe(global: &Global, path: &Path) -> CliResult<Map<String, Value>> {
    let json = read(path, INFO_XATTR).map_err(|e| not_ours(path, &e))?;
    let parsed: Map<String, Value> =
        serde_json::from_slice(&json).map_err(|e| CliError::new(Code::Unexpected, e.to_string()))?;
    let mut info = Map::new();
    info.insert("path".to_owned(), path.display().to_string().into());
    let arn = parsed.get("key_arn").and_then(Value::as_str).map(str::to_owned);
    info.extend(parsed);
    if let Some(arn) = arn {
        info.insert("key_aliases".to_owned(), aliases(global, &arn).into());
    }
    Ok(info)
}

/// Aliases of a key, if the key store can be asked without a passphrase.
fn aliases(global: &Global, arn: &str) -> Vec<String> {
    let Some(id) = arn.rsplit('/').next() else { return Vec::new() };
    let Ok(dir) = dir(global) else { return Vec::new() };
    if !is_served(&dir) {
        return Vec::new();
    }
    let request = ListAliasesRequest { key_id: Some(id.to_owned()), ..ListAliasesRequest::default() };
    let listed: CliResult<ListAliasesResponse> =
        KeyStore::open(global).and_then(|s| s.call("ListAliases", &request));
    listed.map_or_else(|_| Vec::new(), |l| l.aliases.into_iter().map(|alias| alias.alias_name).collect())
}

fn is_root(directory: &Path) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
    device(directory) != device(&directory.join(".."))
}

fn read(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; MAX_LEN];
    let len = rustix::fs::lgetxattr(path, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

fn not_ours(path: &Path, error: &io::Error) -> CliError {
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::EOPNOTSUPP) => CliError::new(
            Code::NotAMount,
            format!("{} is no file or directory of a mounted volume; name one in a mount", path.display()),
        ),
        _ => CliError::io(path, error),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
