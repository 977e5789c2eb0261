//! How a mount ends: someone unmounts it, this process is asked to end, or nobody used it for long
//! enough.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::{gate, table};

/// How long programs that use the mount may hold up a process that was asked to end.
const GRACE: Duration = Duration::from_secs(10);
/// How often unmounting is tried in that time.
const POLL: Duration = Duration::from_millis(50);
/// How soon an idle mount that was busy, as some program's current directory, is tried again at
/// the latest.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Why a mount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was unmounted.
    Unmounted,
    /// This process was asked to end.
    Stopped,
}

/// Asks a mount to end, from any thread and at any time, also before it is mounted.
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Ended>);

impl Stopper {
    /// Asks once more if that was done before: programs get no more time then.
    pub fn stop(&self) {
        // Whoever has ended needs no telling.
        let _ = self.0.send(Ended::Stopped);
    }

    pub(super) fn unmounted(&self) {
        let _ = self.0.send(Ended::Unmounted);
    }
}

/// Where a mount hears of its end.
#[derive(Debug)]
pub struct Stops {
    stopper: Stopper,
    receiver: Receiver<Ended>,
}

impl Stops {
    /// Ends nothing yet.
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { stopper: Stopper(sender), receiver }
    }

    /// A way to end the mount.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }
}

impl Default for Stops {
    fn default() -> Self {
        Self::new()
    }
}

/// The end of one mount, which has `device` as its device number.
pub(super) struct Ending {
    device: u64,
    events: Receiver<Ended>,
}

impl Ending {
    pub(super) fn new(device: u64, stops: Stops) -> Self {
        Self { device, events: stops.receiver }
    }

    /// Waits for the end. A mount that is not used for `idle` is unmounted, as soon as nothing is
    /// open in it.
    pub(super) fn wait(&self, idle: Option<Duration>) -> Ended {
        let Some(idle) = idle else { return self.events.recv().unwrap_or(Ended::Unmounted) };
        let mut patience = idle;
        loop {
            match self.events.recv_timeout(patience) {
                Ok(why) => return why,
                Err(RecvTimeoutError::Disconnected) => return Ended::Unmounted,
                Err(RecvTimeoutError::Timeout) => {}
            }
            patience = idle.saturating_sub(gate::idle());
            if patience.is_zero() {
                // Only what is used nowhere can be unmounted; then the session ends by itself.
                match self.try_unmount() {
                    Ok(()) => tracing::info!("unmounted: not used for {idle:?}"),
                    Err(error) => tracing::debug!("idle, but not unmounted: {error}"),
                }
                patience = idle.min(TRY_AGAIN);
            }
        }
    }

    /// Unmounts when asked to end: properly, as soon as nothing uses the mount. When programs go
    /// on using it, or at the next request to end, everything written so far is taken in and they
    /// are cut off.
    pub(super) fn unmount(&self) {
        let deadline = Instant::now() + GRACE;
        loop {
            if let Err(error) = self.try_unmount() {
                tracing::debug!("unmounting: {error}");
            }
            match self.events.recv_timeout(POLL) {
                Ok(Ended::Unmounted) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Ended::Stopped) => break,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        tracing::warn!("the mount is still in use; programs that use it are cut off");
        if let Err(error) = self.cut_off() {
            tracing::error!("what programs wrote last may be lost: {error}");
        }
    }

    fn try_unmount(&self) -> io::Result<()> {
        table::places(self.device)?.iter().try_for_each(|place| table::unmount(place))
    }

    /// Takes the mount out of the tree and has the kernel write back everything that programs have
    /// written to it. They can go on writing, but nobody can come in by the mount point.
    fn cut_off(&self) -> io::Result<()> {
        let places = table::places(self.device)?;
        // Opened while there is a path to it.
        let root = places.iter().filter_map(|place| File::open(place).ok()).find(|root| {
            let metadata = root.metadata();
            metadata.is_ok_and(|metadata| metadata.dev() == self.device)
        });
        for place in &places {
            if let Err(error) = table::detach(place) {
                tracing::warn!("{}: {error}", place.display());
            }
        }
        match root {
            Some(root) => rustix::fs::syncfs(root)?,
            // Someone detached it before, or its root must not be read: every filesystem, then.
            None => rustix::fs::sync(),
        }
        Ok(())
    }
}
