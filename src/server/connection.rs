//! One connection: who calls, and the calls one after another.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{FRAME_TIMEOUT, IDLE_TIMEOUT, Shared, mounts};
use crate::kms::wire::{self, ATTACH_MOUNT, Reply, Request};
use crate::kms::{Caller, ErrorKind, KmsError};

/// What the audit log calls a request that did not come as far as naming an operation.
const CONNECT: &str = "Connect";

/// Answers calls until the peer leaves, breaks the protocol or is too slow.
pub(super) fn serve(shared: &Shared, mut stream: UnixStream) {
    if let Err(error) = converse(shared, &mut stream) {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {}
            _ => tracing::debug!(%error, "a connection to the key service ended"),
        }
    }
}

/// Tells a peer that there is no room for it.
pub(super) fn refuse_for_load(mut stream: UnixStream) {
    // One small write into an empty buffer; whoever does not take it finds a closed connection.
    let _ = stream.set_nonblocking(true);
    let _ = refuse(&mut stream, KmsError::new(ErrorKind::LimitExceeded, "too many connections; retry later"));
}

fn converse(shared: &Shared, stream: &mut UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(FRAME_TIMEOUT))?;
    let caller = peer(stream)?;
    loop {
        let mut request: Request = match wire::read_frame(&mut Patient::new(stream, Some(IDLE_TIMEOUT))) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = KmsError::validation(format!("malformed frame: {error}"));
                shared.service.log_refused_caller(&caller, CONNECT, &refusal);
                return refuse(stream, refusal);
            }
            other => other?,
        };
        if request.target == ATTACH_MOUNT {
            return mounts::attach(shared, stream, &caller, request.body);
        }
        let result = wire::dispatch_request(&shared.service, &caller, &request);
        wire::wipe(&mut request.body);
        let mut reply = Reply::from(result);
        let written = wire::write_frame(stream, &reply);
        wire::wipe(&mut reply.body);
        written?;
    }
}

fn refuse(stream: &mut UnixStream, error: KmsError) -> io::Result<()> {
    wire::write_frame(stream, &Reply::from(Err::<Value, _>(error)))
}

fn peer(stream: &UnixStream) -> io::Result<Caller> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
    // For people reading the log; a program can call itself anything.
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Ok(Caller::local(peer.uid.as_raw(), peer.gid.as_raw(), pid, program.trim_end().to_owned()))
}

/// Reads one frame: waits long for its first byte, then gives the whole of it one deadline.
pub(super) struct Patient<'a> {
    stream: &'a UnixStream,
    idle: Option<Duration>,
    deadline: Option<Instant>,
}

impl<'a> Patient<'a> {
    /// `idle` is how long to wait for the first byte; `None` for ever.
    pub(super) fn new(stream: &'a UnixStream, idle: Option<Duration>) -> Self {
        Self { stream, idle, deadline: None }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = match self.deadline {
            None => self.idle,
            Some(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(io::ErrorKind::TimedOut.into()),
                left => Some(left),
            },
        };
        self.stream.set_read_timeout(timeout)?;
        let count = (&*self.stream).read(buffer)?;
        self.deadline.get_or_insert_with(|| Instant::now() + FRAME_TIMEOUT);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_peer_that_stops_in_the_middle_of_a_frame_is_given_up() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[100, 0]).unwrap();
        let mut patient = Patient::new(&ours, None);
        patient.deadline = Some(Instant::now() + Duration::from_millis(50));
        assert!(wire::read_frame::<Request>(&mut patient).is_err());
        wire::write_frame(&mut theirs, &1).unwrap();
        assert!(ours.read(&mut [0; 8]).is_ok());
    }
}
