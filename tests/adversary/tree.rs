//! Backing directories as an attacker has them: walked, and copied with their holes, attributes
//! and hard links.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kmsfs::chunk::Backing;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// Everything below a directory, relative to it, parents first and in a fixed order.
pub(crate) fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(root.join(&dir)) else { continue };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let path = dir.join(name);
            if root.join(&path).symlink_metadata().is_ok_and(|m| m.is_dir()) {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// Copies a directory to a place where there is nothing.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    copy_attributes(from, to);
    let mut linked: HashMap<u64, PathBuf> = HashMap::new();
    for path in walk(from) {
        let (source, target) = (from.join(&path), to.join(&path));
        let metadata = source.symlink_metadata().unwrap();
        if metadata.nlink() > 1 && !metadata.is_dir() {
            if let Some(first) = linked.get(&metadata.ino()) {
                fs::hard_link(first, &target).unwrap();
                continue;
            }
            linked.insert(metadata.ino(), target.clone());
        }
        let kind = metadata.file_type();
        if kind.is_dir() {
            fs::create_dir(&target).unwrap();
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(source.read_link().unwrap(), &target).unwrap();
            continue;
        } else if kind.is_fifo() {
            make_fifo(&target);
            continue;
        } else {
            copy_contents(&source, &target);
        }
        copy_attributes(&source, &target);
    }
}

pub(crate) fn make_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
}

fn copy_contents(from: &Path, to: &Path) {
    let (source, target) = (File::open(from).unwrap(), File::create(to).unwrap());
    let mut at = 0;
    while let Some(start) = source.seek_data(at).unwrap() {
        at = source.seek_hole(start).unwrap();
        let mut bytes = vec![0; (at - start) as usize];
        source.read_exact_at(&mut bytes, start).unwrap();
        target.write_all_at(&bytes, start).unwrap();
    }
    target.set_len(source.metadata().unwrap().len()).unwrap();
}

fn copy_attributes(from: &Path, to: &Path) {
    for (name, value) in attributes(from) {
        rustix::fs::setxattr(to, OsStr::from_bytes(&name), &value, XattrFlags::empty()).unwrap();
    }
}

/// The `user.` attributes of a file or directory.
pub(crate) fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 8192];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..len].split(|&b| b == 0).filter(|name| name.starts_with(b"user."));
    let value = |name: &[u8]| {
        let mut value = vec![0; 70_000];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).ok()?;
        value.truncate(len);
        Some((name.to_vec(), value))
    };
    let mut found: Vec<_> = names.filter_map(value).collect();
    // Backing names are random, and a seed is to do the same again.
    found.sort_by_key(|(_, value)| value.len());
    found
}
