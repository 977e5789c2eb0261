//! Signals that end a mount.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::mount::Stops;

/// Whether a signal to end came.
pub(super) struct Signalled(Arc<AtomicBool>);

impl Signalled {
    /// From now on SIGTERM and SIGINT end the mount, and in the foreground SIGHUP does, which says
    /// that the terminal is gone. To the background it says nothing.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub(super) fn watch(stops: &Stops, foreground: bool) -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&came);
        let stopper = stops.stopper();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        std::thread::Builder::new().name("kmsfs-signals".to_owned()).spawn(move || {
            for signal in signals.forever().filter(|signal| *signal != SIGHUP || foreground) {
                tracing::info!("signal {signal}: ending");
                flag.store(true, Ordering::Relaxed);
                stopper.stop();
            }
        })?;
        Ok(Self(came))
    }

    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
