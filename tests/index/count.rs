//! A count of a volume's headers that shares nothing with the program's.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use kmsfs::format::PAGE_LEN;
use kmsfs::format::head::Kind;
use kmsfs::format::layout::Layout;
use kmsfs::format::page::Page;
use kmsfs::fs::{Counts, Wrapping};

/// What wraps every file that has a name.
pub(crate) fn count(volume: &Path) -> Counts {
    let (mut counts, mut seen) = (Counts::new(), HashSet::new());
    let mut directories = vec![volume.to_owned()];
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (name, meta) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap());
            let own =
                name.starts_with("kmsfs.") && (!name.starts_with("kmsfs.long.") || name.ends_with(".name"));
            if own {
                continue;
            }
            if meta.is_dir() {
                directories.push(entry.path());
            } else if meta.is_file() && seen.insert(meta.ino()) {
                let mut page = [0; PAGE_LEN];
                fs::File::open(entry.path()).unwrap().read_exact_at(&mut page, 0).unwrap();
                let page = Page::parse(&page, Kind::File).unwrap();
                let wrapped = &page.slots()[0].wrapped;
                let (key_arn, key_version) = (wrapped.key_arn.clone(), wrapped.key_version);
                let count = counts.entry(Wrapping { key_arn, key_version }).or_default();
                count.files += 1;
                count.bytes += Layout::default().nearest_size(meta.len());
            }
        }
    }
    counts
}
