//! The key service on a Unix socket beside its store, for the other processes of this machine, and,
//! in [`http`], over TCP.
//!
//! One thread per connection; the number of connections is bounded, and so is the time that a
//! peer may take in the middle of a frame. The caller is the peer's user as the kernel names it.
//! The mode of the store's directory says who can connect, and policies and grants decide what
//! they may do; users who are not the owner have a share of the connections and no more.

mod connection;
pub mod http;
mod mounts;
mod vigil;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::kms::{Service, socket};

pub use vigil::{Vigil, Vigilance, asleep};

/// Most connections at a time; further ones are refused.
pub const MAX_CONNECTIONS: usize = 256;
/// Most connections of users other than the owner and root, together and of each: so that the
/// owner always finds a place.
const MAX_FOREIGN: usize = 128;
const MAX_OF_ONE_USER: usize = 32;
/// How long a connection may be idle between calls.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the whole of a frame may take once it has begun, and one write of an answer.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether the clock takes a key away: open files follow within a second.
const TICK: Duration = Duration::from_millis(500);
/// How long ending waits for calls under way: longer than a state change takes.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a thread may take from leaving the list to its end.
const LAST_STEP: Duration = Duration::from_secs(1);
/// A connection's thread parses JSON and seals a few KiB.
const STACK: usize = 512 * 1024;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the server's threads have in common.
struct Shared {
    service: Arc<Service>,
    listener: UnixListener,
    /// Effective user of this process.
    owner: u32,
    mounts: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    end: bool,
    next: u64,
    /// Second handles of the open connections, to shut them down.
    connections: HashMap<u64, Connection>,
}

struct Connection {
    handle: UnixStream,
    uid: u32,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on the socket beside the store that `service` owns. A socket that a dead owner
    /// left is replaced: holding the store is holding its socket.
    ///
    /// # Errors
    /// When the socket cannot be made or a thread not started.
    pub fn start(service: Arc<Service>) -> io::Result<Self> {
        let listener = socket::bind(service.dir())?;
        let shared = Arc::new(Shared {
            service,
            listener,
            owner: rustix::process::geteuid().as_raw(),
            mounts: AtomicUsize::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (accepting, ticking) = (Arc::clone(&shared), Arc::clone(&shared));
        let mut server = Self { shared, threads: Vec::new() };
        server.threads.push(spawn("kms-tick", move || ticking.tick())?);
        server.threads.push(spawn("kms-accept", move || accepting.accept())?);
        Ok(server)
    }

    /// Number of mounts of other processes that depend on this one.
    pub fn attached_mounts(&self) -> usize {
        self.shared.mounts.load(Ordering::Acquire)
    }

    /// Ends the server: refuses new connections, lets calls under way finish, removes the socket.
    pub fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        {
            let mut state = self.shared.state.lock();
            state.end = true;
            for connection in state.connections.values() {
                // Ends the waiting for requests; answers under way can still be written. Fails
                // only when the connection is gone already.
                let _ = connection.handle.shutdown(Shutdown::Read);
            }
        }
        self.shared.changed.notify_all();
        // Wakes the accepting thread, which looks at `end` first. The socket's name, by which it could
        // be woken too, may be gone. Cannot fail: it is a socket, and it listens.
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the key server panicked");
            }
        }
        self.shared.wait_for_connections();
        // A thread leaves the list just before it lets go of the service. Wait for that too:
        // whoever ends the server may want to give the store up.
        let deadline = Instant::now() + LAST_STEP;
        while Arc::strong_count(&self.shared) > 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = socket::remove(self.shared.service.dir()) {
            tracing::warn!(%error, "the key service's socket could not be removed");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>) {
        loop {
            let accepted = self.listener.accept();
            if self.state.lock().end {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the key service failed");
                    // Out of descriptors, most likely: do not spin.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) {
        let handle = match stream.try_clone() {
            Ok(handle) => handle,
            Err(error) => return tracing::warn!(%error, "a connection to the key service failed"),
        };
        let uid = match rustix::net::sockopt::socket_peercred(&stream) {
            Ok(peer) => peer.uid.as_raw(),
            Err(error) => return tracing::warn!(%error, "a connection to the key service failed"),
        };
        let mut state = self.state.lock();
        if !self.has_room(&state, uid) {
            drop(state);
            return connection::refuse_for_load(stream);
        }
        let id = state.next;
        state.next += 1;
        state.connections.insert(id, Connection { handle, uid });
        drop(state);
        let shared = Arc::clone(self);
        let spawned = spawn("kms-connection", move || {
            let _registered = Registered { shared: &shared, id };
            connection::serve(&shared, stream);
        });
        if let Err(error) = spawned {
            self.state.lock().connections.remove(&id);
            tracing::warn!(%error, "no thread for a connection to the key service");
        }
    }

    fn has_room(&self, state: &State, uid: u32) -> bool {
        let is_foreign = |uid: u32| uid != 0 && uid != self.owner;
        let count =
            |counts: &dyn Fn(u32) -> bool| state.connections.values().filter(|c| counts(c.uid)).count();
        let has_share = !is_foreign(uid)
            || count(&is_foreign) < MAX_FOREIGN && count(&|other| other == uid) < MAX_OF_ONE_USER;
        has_share && state.connections.len() < MAX_CONNECTIONS
    }

    fn tick(&self) {
        let mut state = self.state.lock();
        while !state.end {
            self.changed.wait_for(&mut state, TICK);
            if state.end {
                return;
            }
            parking_lot::MutexGuard::unlocked(&mut state, || self.service.tick());
        }
    }

    fn wait_for_connections(&self) {
        let mut state = self.state.lock();
        while !state.connections.is_empty() {
            if self.changed.wait_for(&mut state, END_TIMEOUT).timed_out() {
                tracing::warn!(left = state.connections.len(), "calls to the key service were cut short");
                return;
            }
        }
    }
}

/// Takes a connection off the list when its thread ends, however it does.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().connections.remove(&self.id);
        self.shared.changed.notify_all();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work)
}
