//! Settling what a crash interrupted, with the very code that a mount does it with.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::{Fs, FsResult, ROOT_INO, Volume};
use crate::provider::Provider;

/// Descriptors that it keeps within.
const DESCRIPTORS: u64 = 512;

/// Settles files, by their paths from the root. What cannot be settled stays as it is. The volume
/// stays open, and locked, in what is answered.
///
/// # Errors
/// When the volume cannot be used, or what was settled cannot be made durable.
pub(super) fn settle(volume: Volume, provider: &Arc<dyn Provider>, paths: Vec<PathBuf>) -> FsResult<Arc<Fs>> {
    let fs = Arc::new(Fs::new(volume, Arc::clone(provider), Path::new(""), DESCRIPTORS)?);
    std::thread::scope(|s| {
        let settler = s.spawn(|| fs.run_settler());
        for path in paths {
            if let Err(error) = touch(&fs, &path) {
                tracing::info!("not settled: {error}");
            }
        }
        fs.stop_settler();
        drop(settler);
    });
    fs.shut_down()?;
    Ok(fs)
}

/// Opens a file for writing and closes it again, which hands it to the settler. A look-up already
/// begins a file anew whose header was never durable.
fn touch(fs: &Fs, path: &Path) -> FsResult<()> {
    let names: Vec<&OsStr> = path.iter().filter(|name| *name != "/").collect();
    let mut known = vec![ROOT_INO];
    let looked_up = names.iter().try_for_each(|name| {
        let parent = known.last().copied().unwrap_or(ROOT_INO);
        known.push(fs.lookup(parent, name)?.ino);
        Ok(())
    });
    let touched = looked_up.and_then(|()| {
        let handle = fs.open(known.last().copied().unwrap_or(ROOT_INO), true)?;
        fs.release(handle);
        Ok(())
    });
    known.into_iter().skip(1).for_each(|ino| fs.forget(ino, 1));
    touched
}
