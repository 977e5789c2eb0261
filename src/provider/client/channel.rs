//! A mount's event channel to a key service elsewhere: attached, lost, attached again.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::CALL_TIMEOUT;
use crate::kms::wire::{self, ATTACH_MOUNT, Event, EventReply, Reply, Request};
use crate::kms::{ErrorKind, KeyWatcher, KmsError, socket};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Keeps the watcher attached until it is dropped.
pub(super) struct Attachment {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dir: PathBuf,
    watcher: Arc<dyn KeyWatcher>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    end: bool,
    /// A second handle of the connection, to shut it down from outside.
    stream: Option<UnixStream>,
}

/// Attaches `watcher` to the service that owns the store in `dir`. When the connection is lost
/// nothing is cut: the mount goes on with the keys it has, and is attached again as soon as the
/// service is back, which then brings it up to date.
pub(super) fn attach(dir: &Path, watcher: Arc<dyn KeyWatcher>) -> Result<Attachment, KmsError> {
    let shared =
        Arc::new(Shared { dir: dir.to_owned(), watcher, state: Mutex::default(), ended: Condvar::new() });
    let stream = shared.connect()?;
    let shared_there = Arc::clone(&shared);
    let thread = thread::Builder::new()
        .name("kms-events".to_owned())
        .spawn(move || shared_there.run(stream))
        .map_err(|error| away(&error))?;
    Ok(Attachment { shared, thread: Some(thread) })
}

impl Drop for Attachment {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.end = true;
            if let Some(stream) = state.stream.take() {
                // Fails only when the connection is gone already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, first: UnixStream) {
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
        Ok(stream)
    }

    /// Answers events until the connection ends; answers why it did.
    fn serve(&self, mut stream: UnixStream) -> io::Error {
        let writer = match stream.try_clone() {
            Ok(writer) => Arc::new(Mutex::new(writer)),
            Err(error) => return error,
        };
        loop {
            let event: Event = match wire::read_frame(&mut stream) {
                Ok(event) => event,
                Err(error) => return error,
            };
            // Draining takes its time; other keys need not wait for it.
            let (watcher, writer) = (Arc::clone(&self.watcher), Arc::clone(&writer));
            let spawned = thread::Builder::new().name("kms-event".to_owned()).spawn(move || {
                let reply = handle(&*watcher, event);
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

fn handle(watcher: &dyn KeyWatcher, event: Event) -> EventReply {
    let reported = |id, report| EventReply { id, report: Some(report), mount: None };
    match event {
        Event::Drain { id, key_id, budget_ms, keep } => {
            reported(id, watcher.drain(&key_id, Duration::from_millis(budget_ms), keep))
        }
        Event::Cut { id, key_id, key_state } => reported(id, watcher.cut(&key_id, key_state)),
        Event::Restore { id, key_id } => {
            watcher.restore(&key_id);
            EventReply { id, ..EventReply::default() }
        }
        Event::Vouch { id } => EventReply { id, report: None, mount: watcher.vouch() },
        Event::Describe { id } => EventReply { id, report: None, mount: Some(watcher.describe()) },
    }
}

fn away(error: &io::Error) -> KmsError {
    KmsError::new(ErrorKind::KeyUnavailable, format!("no event channel to the key service: {error}"))
}
