//! The log as the service uses it: many callers, one thread that writes.
//!
//! A caller first takes a [`Place`] for the event that its call will be: there is none if the log
//! cannot be written, so the call is refused before it takes effect. When the call is done, its
//! event takes the place and waits for the next group. A place is a promise: its event never has
//! to wait for room, is written in the order in which events came, and is not dropped. Events of
//! a group that could not be written stay in the queue and are tried again.
//!
//! The queue is bounded by the number of places and by bytes. When it is full, callers wait for a
//! place; when that takes too long, the disk is too slow and they are refused.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::chain::Head;
use super::error::AuditError;
use super::event::Parameter;
use super::journal::{Journal, Setup};
use super::segment;
use super::verify::{self, Report};
use crate::clock::Clock;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

/// Most events that are under way or waiting at a time.
pub const MAX_PLACES: usize = 16 * 1024;
/// Most bytes that wait, but for the events that have a place already.
const MAX_BYTES: usize = 8 << 20;
/// How long the first event of a group waits for others. With the flush it stays within 100 ms on
/// any disk that is not overloaded.
const WINDOW: Duration = Duration::from_millis(50);
/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_millis(250);
/// How long a caller waits for a place, or for its event to be durable.
const PATIENCE: Duration = Duration::from_secs(10);
/// Name of the event that says that events were not logged.
pub const MISSED: &str = "MissAuditEvents";

/// What happens to calls when the log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They are refused.
    #[default]
    Required,
    /// They are carried out. What is not logged is counted, and the log says so when it can.
    BestEffort,
}

/// An audit log that is being written. Dropping it ends it.
pub struct AuditLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Room for one event.
#[must_use]
pub struct Place<'l> {
    log: &'l AuditLog,
    /// False when the log is full of what cannot be written, and calls go on all the same.
    counted: bool,
}

struct Shared {
    setup: Setup,
    clock: Arc<dyn Clock>,
    /// [`Mode::BestEffort`].
    goes_on: AtomicBool,
    /// Where `journal` is, for those who cannot wait for a group to be written.
    head: Mutex<Head>,
    /// Places that are taken.
    places: AtomicUsize,
    /// Bytes that wait.
    bytes: AtomicUsize,
    failing: AtomicBool,
    /// Events that were not logged since the last that was.
    missed: AtomicU64,
    queue: Mutex<Queue>,
    /// The writer waits here.
    work: Condvar,
    /// Callers wait here.
    done: Condvar,
    /// Held while a group is written. Taken before `queue`, never inside.
    journal: Mutex<State>,
}

enum State {
    /// Not opened yet, with the anchor.
    Closed(Head),
    Open(Box<Journal>),
}

/// Events are numbered by the order in which they came, from 1.
#[derive(Default)]
struct Queue {
    events: VecDeque<Vec<u8>>,
    /// How many of them, at most, are of calls that were answered as if they had been logged.
    untold: usize,
    /// Number of the last event that came.
    came: u64,
    /// Number of the last one that is durable.
    durable: u64,
    /// Number of the last one that an attempt failed for.
    failed: u64,
    failure: Option<AuditError>,
    /// When the first of `events` came.
    since: Option<Instant>,
    /// Somebody waits for the last event that came.
    urgent: bool,
    end: bool,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("dir", &self.shared.setup.dir).finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Opens the log. `anchor` is what the key store remembers of it.
    ///
    /// A log that cannot be opened or written refuses places until it can.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(setup: Setup, anchor: Head, mode: Mode, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            setup,
            clock,
            goes_on: AtomicBool::new(mode == Mode::BestEffort),
            head: Mutex::new(anchor),
            places: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            missed: AtomicU64::new(0),
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            journal: Mutex::new(State::Closed(anchor)),
        });
        // At once, so that what was found at its end is in it before the first call.
        shared.attempt();
        let writing = Arc::clone(&shared);
        let writer = thread::Builder::new().name("kms-audit".to_owned()).spawn(move || writing.write())?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    /// Room for the event of a call that is about to be carried out.
    ///
    /// # Errors
    /// Why the log cannot be written. The call must be refused.
    pub fn place(&self) -> Result<Place<'_>, AuditError> {
        let shared = &*self.shared;
        let is_room = shared.bytes.load(Ordering::Relaxed) < MAX_BYTES;
        let taken = shared.places.fetch_add(1, Ordering::Relaxed);
        if taken < MAX_PLACES && is_room && !shared.failing.load(Ordering::Acquire) {
            return Ok(Place { log: self, counted: true });
        }
        shared.places.fetch_sub(1, Ordering::Relaxed);
        self.place_when_possible()
    }

    /// Waits until everything that came is durable.
    ///
    /// # Errors
    /// Why it is not.
    pub fn flush(&self) -> Result<(), AuditError> {
        let mut queue = self.shared.queue.lock();
        let last = queue.came;
        self.shared.wait(&mut queue, last)
    }

    /// The end of what is durable.
    pub fn head(&self) -> Head {
        *self.shared.head.lock()
    }

    /// Looks for what was done to the log; to `files` of it, such as an archive, if any are named.
    ///
    /// # Errors
    /// When a file cannot be read. What cannot be written is no error: what is durable is verified.
    pub fn verify(&self, files: &[PathBuf]) -> Result<Report, AuditError> {
        let setup = self.setup();
        if !files.is_empty() {
            return verify::files(setup, files);
        }
        // Refused for a reason that the next call will be told.
        let _ = self.flush();
        let (head, end) = match &*self.shared.journal.lock() {
            State::Open(journal) => (journal.head(), journal.end()),
            State::Closed(anchor) => (*anchor, None),
        };
        verify::log(setup, head, end)
    }

    /// What happens to calls when the log cannot be written, from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.goes_on.store(mode == Mode::BestEffort, Ordering::Release);
        self.shared.done.notify_all();
    }

    /// What it is written with.
    pub fn setup(&self) -> &Setup {
        &self.shared.setup
    }

    /// Writes what waits, ends the writing and answers the end of the log.
    ///
    /// # Errors
    /// Why something could not be written; it is lost.
    pub fn end(&self) -> Result<Head, AuditError> {
        let Some(writer) = self.writer.lock().take() else { return Ok(self.head()) };
        self.shared.queue.lock().end = true;
        self.shared.work.notify_one();
        if writer.join().is_err() {
            tracing::error!("the writer of the audit log panicked");
        }
        let queue = self.shared.queue.lock();
        if let Some(error) = queue.failure.as_ref().filter(|_| !queue.events.is_empty()) {
            if queue.untold > 0 {
                tracing::error!(events = queue.untold, %error, "events could not be logged and are lost");
            }
            return Err(error.clone());
        }
        drop(queue);
        Ok(self.head())
    }

    fn place_when_possible(&self) -> Result<Place<'_>, AuditError> {
        let shared = &*self.shared;
        let deadline = Instant::now() + PATIENCE;
        let mut queue = shared.queue.lock();
        loop {
            if shared.goes_on() && queue.failure.is_some() {
                let counted = shared.places.fetch_add(1, Ordering::Relaxed) < MAX_PLACES
                    && shared.bytes.load(Ordering::Relaxed) < MAX_BYTES;
                if !counted {
                    shared.places.fetch_sub(1, Ordering::Relaxed);
                }
                return Ok(Place { log: self, counted });
            }
            if let Some(failure) = &queue.failure {
                shared.missed.fetch_add(1, Ordering::Relaxed);
                return Err(failure.clone());
            }
            if shared.bytes.load(Ordering::Relaxed) < MAX_BYTES {
                if shared.places.fetch_add(1, Ordering::Relaxed) < MAX_PLACES {
                    return Ok(Place { log: self, counted: true });
                }
                shared.places.fetch_sub(1, Ordering::Relaxed);
            }
            queue.urgent = true;
            shared.work.notify_one();
            if shared.done.wait_until(&mut queue, deadline).timed_out() {
                shared.missed.fetch_add(1, Ordering::Relaxed);
                return Err(AuditError::Behind);
            }
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        // Said to the log of the process already.
        let _ = self.end();
    }
}

impl Place<'_> {
    /// Gives the place to `event`, a JSON object; it will be durable soon.
    pub fn fill(self, event: Vec<u8>) {
        self.enter(event, false);
    }

    /// As [`Place::fill`], and waits until it is durable.
    ///
    /// # Errors
    /// Why it could not be written now. It stays in the queue.
    pub fn fill_durably(self, event: Vec<u8>) -> Result<(), AuditError> {
        let shared = Arc::clone(&self.log.shared);
        let Some(number) = self.enter(event, true) else { return Ok(()) };
        let waited = shared.wait(&mut shared.queue.lock(), number);
        if shared.goes_on() { Ok(()) } else { waited }
    }

    fn enter(self, event: Vec<u8>, urgent: bool) -> Option<u64> {
        let shared = &*self.log.shared;
        if !self.counted {
            shared.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // The place goes on with the event.
        std::mem::forget(self);
        shared.bytes.fetch_add(event.len(), Ordering::Relaxed);
        let mut queue = shared.queue.lock();
        queue.events.push_back(event);
        queue.came += 1;
        queue.untold += usize::from(!urgent);
        let is_first = queue.since.is_none();
        if is_first {
            queue.since = Some(Instant::now());
        }
        let wake = is_first || (urgent && !queue.urgent);
        queue.urgent |= urgent;
        let number = queue.came;
        drop(queue);
        if wake {
            shared.work.notify_one();
        }
        Some(number)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.log.shared.places.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl State {
    fn head(&self) -> Head {
        match self {
            Self::Closed(anchor) => *anchor,
            Self::Open(journal) => journal.head(),
        }
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        self.goes_on.load(Ordering::Acquire)
    }

    /// The writer's thread.
    fn write(&self) {
        loop {
            let mut queue = self.queue.lock();
            self.wait_for_group(&mut queue);
            let ends = queue.end;
            let is_idle = queue.events.is_empty() && queue.failure.is_none();
            if is_idle {
                // Said by a caller whose event was on its way to the disk already. It must not keep
                // the writer from waiting.
                queue.urgent = false;
            }
            drop(queue);
            if !is_idle {
                self.attempt();
            }
            // What came while the last group was written is not left behind.
            let left = self.queue.lock();
            if ends && (left.events.is_empty() || left.failure.is_some()) {
                return;
            }
        }
    }

    fn wait_for_group(&self, queue: &mut MutexGuard<'_, Queue>) {
        if queue.failure.is_some() && !queue.end {
            self.work.wait_for(queue, RETRY);
            return;
        }
        while !queue.end && !queue.urgent {
            match queue.since {
                None => self.work.wait(queue),
                Some(since) => {
                    let due = since + WINDOW;
                    if self.bytes.load(Ordering::Relaxed) > MAX_BYTES / 2
                        || self.work.wait_until(queue, due).timed_out()
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Writes everything that waits as one group.
    fn attempt(&self) {
        let mut state = self.journal.lock();
        let mut queue = self.queue.lock();
        let mut group = std::mem::take(&mut queue.events);
        let last = queue.came;
        (queue.since, queue.urgent) = (None, false);
        drop(queue);
        let missed = self.missed.load(Ordering::Relaxed);
        if missed > 0 {
            group.push_back(self.missed_event(missed));
        }
        let written = self.write_group(&mut state, &group);
        if missed > 0 {
            group.pop_back();
        }
        let mut queue = self.queue.lock();
        match written {
            Ok(()) => {
                self.missed.fetch_sub(missed, Ordering::Relaxed);
                self.places.fetch_sub(group.len(), Ordering::Relaxed);
                self.bytes.fetch_sub(group.iter().map(Vec::len).sum(), Ordering::Relaxed);
                queue.durable = last;
                queue.untold = queue.events.len();
                *self.head.lock() = state.head();
                if queue.failure.take().is_some() {
                    tracing::info!("the audit log can be written again");
                }
            }
            Err(error) => {
                if queue.failure.as_ref() != Some(&error) {
                    // Callers are told.
                    tracing::info!(%error, "the audit log cannot be written");
                }
                queue.failed = last;
                queue.failure = Some(error);
                group.append(&mut queue.events);
                queue.events = group;
                queue.since = queue.since.or((!queue.events.is_empty()).then(Instant::now));
            }
        }
        self.failing.store(queue.failure.is_some(), Ordering::Release);
        drop(queue);
        drop(state);
        self.done.notify_all();
    }

    fn write_group(&self, state: &mut State, group: &VecDeque<Vec<u8>>) -> Result<(), AuditError> {
        let now = self.clock.now();
        if let State::Closed(anchor) = *state {
            *state = State::Open(Box::new(Journal::open(self.setup.clone(), anchor, now)?));
        }
        match state {
            State::Open(journal) => journal.append(group.iter().map(Vec::as_slice), now),
            State::Closed(_) => Ok(()),
        }
    }

    fn missed_event(&self, count: u64) -> Vec<u8> {
        let additional = [("eventCount", Parameter::Number(count))];
        segment::service_event(&self.setup.owner, &self.setup.ids, MISSED, &additional, self.clock.now())
    }

    /// Waits until the event of this number is durable, or could not be made so.
    fn wait(&self, queue: &mut MutexGuard<'_, Queue>, number: u64) -> Result<(), AuditError> {
        let deadline = Instant::now() + PATIENCE;
        while queue.durable < number {
            if let Some(failure) = queue.failure.as_ref().filter(|_| queue.failed >= number) {
                return Err(failure.clone());
            }
            if !queue.urgent {
                queue.urgent = true;
                self.work.notify_one();
            }
            if self.done.wait_until(queue, deadline).timed_out() {
                return Err(AuditError::Behind);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EventIds, Limits, Owner};
    use super::*;
    use crate::clock::SystemClock;
    use crate::kms::{Realm, StoreId, SystemDisk};
    use crate::secret::Key;

    #[test]
    fn a_writer_that_was_hurried_when_all_was_written_waits_again() {
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup {
            disk: Arc::new(SystemDisk),
            dir: dir.path().to_owned(),
            owner: Owner { store: StoreId::from_bytes([7; 16]), realm: Realm::default() },
            key: Arc::new(Key::random().unwrap()),
            limits: Limits::default(),
            ids: Arc::new(EventIds::random().unwrap()),
        };
        let log = AuditLog::start(setup, Head::START, Mode::Required, Arc::new(SystemClock)).unwrap();
        log.shared.queue.lock().urgent = true;
        log.shared.work.notify_one();
        let deadline = Instant::now() + PATIENCE;
        while log.shared.queue.lock().urgent {
            assert!(Instant::now() < deadline, "it does not wait: it goes round and round");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
