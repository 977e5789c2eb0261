//! Taking a volume over from a process that has unmounted it and is still making things durable, as
//! happens when a mount follows right after umount(8): waiting for it, instead of calling the
//! volume mounted.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::format::{VOLUME_COPY_NAME, VOLUME_NAME};
use crate::fs::{Volume, VolumeError};
use crate::mount;
use crate::provider::Provider;
use crate::sys;

/// How long to wait at most.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often to look.
const POLL: Duration = Duration::from_millis(20);

/// Waits while a process holds the volume's lock without having the volume mounted, for a while.
/// Takes no lock itself, which could be in somebody's way.
pub(super) fn wait(volume: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while is_being_let_go(volume) && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
}

/// Opens a volume, as soon as it is let go.
pub(super) fn open(path: &Path, provider: &dyn Provider, read_only: bool) -> Result<Volume, VolumeError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Volume::open(path, provider, read_only) {
            // Nobody seems to hold it: let go just now, perhaps.
            Err(VolumeError::InUse { by, .. })
                if Instant::now() < deadline
                    && (is_being_let_go(path) || by.is_none() && !is_mounted_here(path)) =>
            {
                std::thread::sleep(POLL);
            }
            opened => return opened,
        }
    }
}

/// Whether some process that lives holds the volume's lock and does not have it mounted: it is
/// about to let go, or to mount it.
fn is_being_let_go(volume: &Path) -> bool {
    holders(volume).into_iter().any(|process| mount::is_mounted_for(process, volume) == Some(false))
}

fn is_mounted_here(volume: &Path) -> bool {
    mount::is_mounted_for(std::process::id(), volume) == Some(true)
}

/// Processes that hold the volume's lock, as far as they can be seen.
fn holders(volume: &Path) -> Vec<u32> {
    let page = File::open(volume.join(VOLUME_NAME)).or_else(|_| File::open(volume.join(VOLUME_COPY_NAME)));
    page.map_or_else(|_| Vec::new(), sys::lock_holders)
}
