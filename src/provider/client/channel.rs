//! A mount's event channel to a key service elsewhere: attached, lost, attached again.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::CALL_TIMEOUT;
use super::lease::Lease;
use crate::kms::wire::{self, ATTACH_MOUNT, Event, EventReply, Reply, Request};
use crate::kms::{CutReport, ErrorKind, KeyWatcher, KmsError, socket};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// For a mount that does not say how long it goes on by itself.
const DEFAULT_LEASE: Duration = Duration::from_secs(300);
/// How long writing back may take when the service is not heard any more.
const LAPSE_BUDGET: Duration = Duration::from_secs(5);

/// Keeps the watcher attached until it is dropped.
pub(super) struct Attachment {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    dir: PathBuf,
    watcher: Arc<dyn KeyWatcher>,
    state: Mutex<State>,
    ended: Condvar,
    /// Of the last event that locks or unlocks.
    last_lock: AtomicU64,
    /// Held while one of these is carried out, and while the mount introduces itself: it says whether it
    /// is locked.
    locking: Mutex<()>,
    lease: Lease,
}

#[derive(Default)]
struct State {
    end: bool,
    /// A second handle of the connection, to shut it down from outside.
    stream: Option<UnixStream>,
}

/// Attaches `watcher` to the service that owns the store in `dir`. When the connection is lost
/// nothing is cut at first: the mount goes on with the keys it has, and is attached again as soon as the
/// service is back, which then brings it up to date. When nothing was heard of the service for as long
/// as the mount's lease, it is locked.
pub(super) fn attach(dir: &Path, watcher: Arc<dyn KeyWatcher>) -> Result<Attachment, KmsError> {
    let lease = watcher.describe().lease_ms.map_or(DEFAULT_LEASE, Duration::from_millis);
    let shared = Arc::new(Shared {
        dir: dir.to_owned(),
        watcher,
        state: Mutex::default(),
        ended: Condvar::new(),
        last_lock: AtomicU64::new(0),
        locking: Mutex::new(()),
        lease: Lease::new(lease),
    });
    let stream = shared.connect()?;
    let mut attachment = Attachment { shared: Arc::clone(&shared), threads: Vec::new() };
    let there = Arc::clone(&shared);
    attachment.spawn("kms-events", move || there.run(stream))?;
    attachment.spawn("kms-lease", move || shared.keep_lease())?;
    Ok(attachment)
}

impl Attachment {
    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), KmsError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|error| away(&error))?);
        Ok(())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.end = true;
            state.hang_up();
        }
        self.shared.ended.notify_all();
        self.shared.lease.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl State {
    fn hang_up(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Fails only when the connection is gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// Locks the mount whenever the lease runs out. It is unlocked by being attached again.
    fn keep_lease(&self) {
        while self.lease.wait() {
            let _locking = self.locking.lock();
            // Somebody may have been attached while this was waited for.
            if self.lease.has_lapsed() {
                tracing::warn!(dir = %self.dir.display(), "nothing is heard of the key service: locked");
                self.watcher.lock(LAPSE_BUDGET);
                // A service that only stood still has to hear of it.
                self.state.lock().hang_up();
            }
        }
    }

    fn run(self: &Arc<Self>, first: UnixStream) {
        let mut connected = Some(first);
        let mut pause = FIRST_RETRY;
        loop {
            if let Some(stream) = connected.take() {
                let lost = self.serve(stream);
                if self.state.lock().end {
                    return;
                }
                tracing::warn!(dir = %self.dir.display(), error = %lost, "connection to the key service lost");
                pause = FIRST_RETRY;
            }
            let mut state = self.state.lock();
            if !state.end {
                self.ended.wait_for(&mut state, pause);
            }
            if state.end {
                return;
            }
            drop(state);
            match self.connect() {
                Ok(stream) => {
                    tracing::info!(dir = %self.dir.display(), "attached to the key service again");
                    connected = Some(stream);
                }
                Err(_) => pause = (pause * 2).min(LAST_RETRY),
            }
        }
    }

    /// Connects, introduces the mount and remembers the connection for [`Attachment::drop`].
    fn connect(&self) -> Result<UnixStream, KmsError> {
        let mut stream = socket::connect(&self.dir, CALL_TIMEOUT).map_err(|error| away(&error))?;
        let _locking = self.locking.lock();
        let status = serde_json::to_value(self.watcher.describe());
        let body = status.map_err(|error| KmsError::new(ErrorKind::Internal, error.to_string()))?;
        let request = Request { target: ATTACH_MOUNT.to_owned(), body, on_behalf: None };
        let reply: Reply = wire::write_frame(&mut stream, &request)
            .and_then(|()| wire::read_frame(&mut stream))
            .map_err(|error| away(&error))?;
        reply.into_result()?;
        // From here the service speaks when it has something to say.
        stream.set_read_timeout(None).map_err(|error| away(&error))?;
        let handle = stream.try_clone().map_err(|error| away(&error))?;
        let mut state = self.state.lock();
        if state.end {
            return Err(KmsError::new(ErrorKind::KeyUnavailable, "detached"));
        }
        state.stream = Some(handle);
        self.lease.renew();
        Ok(stream)
    }

    /// Carries out an event. Of events that lock and unlock the last one counts: the service gives up on a
    /// mount that does not answer, which may come to the earlier one later than to that.
    fn handle(&self, event: Event) -> EventReply {
        let (Event::Lock { id, .. } | Event::Unlock { id }) = event else {
            return handle(&*self.watcher, event);
        };
        let _locking = self.locking.lock();
        if self.last_lock.load(Ordering::SeqCst) != id {
            return reported(id, CutReport::default());
        }
        handle(&*self.watcher, event)
    }

    /// Answers events until the connection ends; answers why it did.
    fn serve(self: &Arc<Self>, mut stream: UnixStream) -> io::Error {
        let writer = match stream.try_clone() {
            Ok(writer) => Arc::new(Mutex::new(writer)),
            Err(error) => return error,
        };
        loop {
            let event: Event = match wire::read_frame(&mut stream) {
                Ok(event) => event,
                Err(error) => return error,
            };
            if self.lease.has_lapsed() {
                return io::ErrorKind::TimedOut.into();
            }
            self.lease.renew();
            if event == Event::Alive {
                continue;
            }
            if let Event::Lock { id, .. } | Event::Unlock { id } = event {
                self.last_lock.store(id, Ordering::SeqCst);
            }
            // Draining takes its time; other keys need not wait for it.
            let (shared, writer) = (Arc::clone(self), Arc::clone(&writer));
            let spawned = thread::Builder::new().name("kms-event".to_owned()).spawn(move || {
                let reply = shared.handle(event);
                if let Err(error) = wire::write_frame(&mut *writer.lock(), &reply) {
                    tracing::warn!(%error, "the key service could not be answered");
                }
            });
            if let Err(error) = spawned {
                return error;
            }
        }
    }
}

fn reported(id: u64, report: CutReport) -> EventReply {
    EventReply { id, report: Some(report), mount: None }
}

fn handle(watcher: &dyn KeyWatcher, event: Event) -> EventReply {
    match event {
        Event::Drain { id, key_id, budget_ms, keep } => {
            reported(id, watcher.drain(&key_id, Duration::from_millis(budget_ms), keep))
        }
        Event::Cut { id, key_id, key_state } => reported(id, watcher.cut(&key_id, key_state)),
        Event::Restore { id, key_id } => {
            watcher.restore(&key_id);
            EventReply { id, ..EventReply::default() }
        }
        Event::Lock { id, budget_ms } => reported(id, watcher.lock(Duration::from_millis(budget_ms))),
        Event::Unlock { id } => {
            watcher.unlock();
            EventReply { id, ..EventReply::default() }
        }
        Event::Vouch { id } => EventReply { id, report: None, mount: watcher.vouch() },
        Event::Describe { id } => EventReply { id, report: None, mount: Some(watcher.describe()) },
        Event::Alive => EventReply::default(),
    }
}

fn away(error: &io::Error) -> KmsError {
    KmsError::new(ErrorKind::KeyUnavailable, format!("no event channel to the key service: {error}"))
}
