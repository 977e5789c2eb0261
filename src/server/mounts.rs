//! Mounts of other processes: a [`KeyWatcher`] at the far end of a connection.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};

use super::Shared;
use super::connection::Patient;
use crate::kms::wire::{self, Event, EventReply, Reply};
use crate::kms::{Caller, CutReport, KeyId, KeyState, KeyWatcher, KmsError, MountStatus};

/// Longer than the service waits for any of these; it decides, this only ends the thread.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// The time between two signs of life, unless the mount needs them more often, and the least.
const BEAT: Duration = Duration::from_secs(15);
const LEAST_BEAT: Duration = Duration::from_millis(100);

/// Turns the connection into the mount's event channel and serves it until it ends.
pub(super) fn attach(shared: &Shared, stream: &UnixStream, caller: &Caller, status: Value) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let status: MountStatus = match serde_json::from_value(status) {
        Ok(status) => status,
        Err(error) => {
            let refusal = KmsError::validation(error.to_string());
            return wire::write_frame(&mut writer, &Reply::from(Err::<Value, _>(refusal)));
        }
    };
    // A mount that misses one of them is not locked.
    let beat =
        status.lease_ms.map_or(BEAT, |lease| (Duration::from_millis(lease) / 4).clamp(LEAST_BEAT, BEAT));
    let is_believed = shared.service.speaks_for(caller, &status.volume);
    let mount = Arc::new(RemoteMount {
        name: status.mountpoint.clone(),
        volume: is_believed.then(|| status.volume.clone()),
        writer: Mutex::new(writer),
        next: AtomicU64::new(1),
        pending: Mutex::default(),
    });
    let _counted = Counted::new(&shared.mounts);
    let watcher: Arc<dyn KeyWatcher> = mount.clone();
    let _guard = {
        // Events wait for this lock, so none overtakes the answer; and when the mount has the
        // answer, no revocation passes it by.
        let mut writer = mount.writer.lock();
        let attached = shared.service.attach(caller, status, watcher);
        let (guard, reply) = match attached {
            Ok(guard) => (guard, Reply { status: 200, body: json!({}) }),
            Err(refusal) => return wire::write_frame(&mut *writer, &Reply::from(Err::<Value, _>(refusal))),
        };
        wire::write_frame(&mut *writer, &reply)?;
        guard
    };
    tracing::info!(mount = mount.name, "mount attached");
    let ended = loop {
        match has_spoken(stream, beat) {
            Ok(true) => {}
            Ok(false) => {
                if let Err(error) = wire::write_frame(&mut *mount.writer.lock(), &Event::Alive) {
                    break error;
                }
                continue;
            }
            Err(error) => break error,
        }
        match wire::read_frame::<EventReply>(&mut Patient::new(stream, None)) {
            Ok(reply) => mount.answered(reply),
            Err(error) => break error,
        }
    };
    tracing::info!(mount = mount.name, error = %ended, "mount detached");
    // Whoever waits for an answer learns now that none will come.
    mount.pending.lock().clear();
    Ok(())
}

/// Whether the peer has something to say, or is gone, within `patience`.
fn has_spoken(stream: &UnixStream, patience: Duration) -> io::Result<bool> {
    stream.set_read_timeout(Some(patience))?;
    match recv(stream, &mut [0], RecvFlags::PEEK) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

struct RemoteMount {
    name: String,
    /// The volume that it may speak for.
    volume: Option<String>,
    writer: Mutex<UnixStream>,
    next: AtomicU64,
    /// Events that wait for their answer.
    pending: Mutex<HashMap<u64, SyncSender<EventReply>>>,
}

impl RemoteMount {
    /// Sends an event and waits for its answer; `None` when the connection or the patience ends.
    fn ask(&self, event: impl FnOnce(u64) -> Event, patience: Duration) -> Option<EventReply> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = sync_channel(1);
        self.pending.lock().insert(id, sender);
        let sent = wire::write_frame(&mut *self.writer.lock(), &event(id));
        let reply = sent.ok().and_then(|()| answer.recv_timeout(patience).ok());
        self.pending.lock().remove(&id);
        reply
    }

    fn answered(&self, reply: EventReply) {
        if let Some(waiting) = self.pending.lock().remove(&reply.id) {
            // Whoever waited may have given up.
            let _ = waiting.send(reply);
        }
    }

    /// What the mount says of itself, under the names that it attached with. What it says of a volume
    /// that it may not speak for counts nowhere: it is as if it had said nothing.
    fn believed(&self, said: Option<MountStatus>) -> MountStatus {
        let mountpoint = self.name.clone();
        match (&self.volume, said) {
            (Some(volume), Some(said)) => MountStatus { mountpoint, volume: volume.clone(), ..said },
            (Some(volume), None) => {
                MountStatus { mountpoint, volume: volume.clone(), ..MountStatus::default() }
            }
            (None, said) => {
                let open_files = said.map(|said| said.open_files).unwrap_or_default();
                MountStatus { mountpoint, open_files, ..MountStatus::default() }
            }
        }
    }

    fn report(&self, reply: Option<EventReply>) -> CutReport {
        let silent = || CutReport { mount: self.name.clone(), unreachable: true, ..CutReport::default() };
        let report = reply.and_then(|reply| reply.report).unwrap_or_else(silent);
        // The name it attached with, so that its reports can be put together.
        CutReport { mount: self.name.clone(), ..report }
    }
}

impl KeyWatcher for RemoteMount {
    fn describe(&self) -> MountStatus {
        let reply = self.ask(|id| Event::Describe { id }, LONG_ENOUGH);
        self.believed(reply.and_then(|reply| reply.mount))
    }

    fn vouch(&self) -> Option<MountStatus> {
        let said = self.ask(|id| Event::Vouch { id }, LONG_ENOUGH)?.mount?;
        Some(self.believed(Some(said)))
    }

    fn drain(&self, key: &KeyId, budget: Duration, keep: bool) -> CutReport {
        let budget_ms = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
        self.report(self.ask(|id| Event::Drain { id, key_id: *key, budget_ms, keep }, LONG_ENOUGH))
    }

    fn cut(&self, key: &KeyId, state: Option<KeyState>) -> CutReport {
        self.report(self.ask(|id| Event::Cut { id, key_id: *key, key_state: state }, LONG_ENOUGH))
    }

    fn restore(&self, key: &KeyId) {
        self.ask(|id| Event::Restore { id, key_id: *key }, LONG_ENOUGH);
    }

    fn lock(&self, budget: Duration) -> CutReport {
        let budget_ms = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
        self.report(self.ask(|id| Event::Lock { id, budget_ms }, LONG_ENOUGH))
    }

    fn unlock(&self) {
        self.ask(|id| Event::Unlock { id }, LONG_ENOUGH);
    }
}

/// Counts an attached mount for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
