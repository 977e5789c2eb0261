//! Filling a bundle: every data key of a volume, unwrapped by the key service that has it, so that
//! its policies decide and its audit log tells.

use std::collections::HashSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{AllMissing, BundleError, Kind, Writer};
use crate::fs::FileKind;
use crate::tools::rewrap::{Place, Tree, Unmounted};

/// What came of it.
#[derive(Debug, Default)]
pub struct Exported {
    /// Files whose data keys are in the bundle.
    pub files: u64,
    /// What is not.
    pub missing: AllMissing,
    /// Ended by a signal; the bundle is none.
    pub cancelled: bool,
}

/// Writes the keys of everything in a volume, whose root is `root`.
///
/// # Errors
/// When the volume key cannot be unwrapped, or the bundle not be written.
pub fn export<W: Write>(
    tree: &Unmounted,
    root: &Place,
    out: &mut Writer<W>,
    stop: &AtomicBool,
) -> Result<Exported, BundleError> {
    let (volume, key) = tree.data_key(root)?;
    out.add(Kind::Volume, volume, &key)?;
    let mut work =
        Export { tree, out, stop, seen: HashSet::new(), failed: None, exported: Exported::default() };
    work.exported.cancelled = work.directory(root).is_break() && work.failed.is_none();
    match work.failed {
        Some(error) => Err(error),
        None => Ok(work.exported),
    }
}

struct Export<'a, W> {
    tree: &'a Unmounted,
    out: &'a mut Writer<W>,
    stop: &'a AtomicBool,
    /// Inode numbers of files that have other names.
    seen: HashSet<u64>,
    /// Why the bundle could not be written.
    failed: Option<BundleError>,
    exported: Exported,
}

impl<W: Write> Export<'_, W> {
    fn directory(&mut self, place: &Place) -> ControlFlow<()> {
        let tree = self.tree;
        match tree.each(place, &mut |entry| self.visit(entry)) {
            Ok(flow) => flow,
            Err(error) => {
                self.exported.missing.add_failed(place.path.clone(), &error);
                ControlFlow::Continue(())
            }
        }
    }

    fn visit(&mut self, place: Place) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        match place.kind {
            FileKind::Directory => self.directory(&place),
            FileKind::Regular if self.seen.insert(place.ino) => self.file(place),
            _ => ControlFlow::Continue(()),
        }
    }

    fn file(&mut self, place: Place) -> ControlFlow<()> {
        match self.tree.data_key(&place) {
            Ok((id, key)) => {
                if let Err(error) = self.out.add(Kind::File, id, &key) {
                    self.failed = Some(error);
                    return ControlFlow::Break(());
                }
                self.exported.files += 1;
            }
            Err(error) => self.exported.missing.add_failed(place.path, &error),
        }
        ControlFlow::Continue(())
    }
}
