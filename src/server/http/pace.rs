//! A connection that must keep moving: a peer that sends or takes too slowly is cut off.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a peer may wait with its first request.
pub(super) const FIRST_TIME: Duration = Duration::from_secs(10);
/// How long it may be idle once it has proved who it is.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(60);
/// How long the head of a request may take, and as long again its body.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long it may take to take an answer.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(20);

const NEW: u8 = 0;
const IDLE: u8 = 1;
const HEAD: u8 = 2;
const BUSY: u8 = 3;

/// What a connection is doing; shared by its stream and its requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Phase(Arc<AtomicU8>);

/// While it lives, a request is being answered, and the peer owes nothing.
#[derive(Debug)]
pub(super) struct Busy {
    phase: Phase,
    then: u8,
}

impl Phase {
    /// A request's head is there.
    pub(super) fn busy(&self) -> Busy {
        self.0.store(BUSY, Ordering::Relaxed);
        Busy { phase: self.clone(), then: NEW }
    }

    fn now(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Busy {
    /// The peer has proved who it is: it may stay when it is idle.
    pub(super) fn welcome(&mut self) {
        self.then = IDLE;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.phase.0.store(self.then, Ordering::Relaxed);
    }
}

/// A stream with deadlines.
pub(super) struct Paced<S> {
    stream: S,
    phase: Phase,
    reading: Option<(u8, Pin<Box<Sleep>>)>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, phase: Phase) -> Self {
        Self { stream, phase, reading: None, writing: None }
    }

    /// Whether the peer has had its time for what it owes now.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let phase = self.phase.now();
        let time = match phase {
            NEW => FIRST_TIME,
            IDLE => IDLE_TIME,
            HEAD => REQUEST_TIME,
            _ => {
                self.reading = None;
                return Poll::Pending;
            }
        };
        if self.reading.as_ref().is_none_or(|(of, _)| *of != phase) {
            self.reading = Some((phase, Box::pin(sleep(time))));
        }
        match &mut self.reading {
            Some((_, timer)) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn late_to_take(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = self.writing.get_or_insert_with(|| Box::pin(sleep(ANSWER_TIME)));
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            // The first byte of a head starts its clock; a body has one of its own.
            if buffer.filled().len() > before && matches!(self.phase.now(), NEW | IDLE) {
                self.phase.0.store(HEAD, Ordering::Relaxed);
            }
            // Bytes that trickle in do not buy time.
            return match (self.phase.now(), self.poll_late(cx)) {
                (HEAD, Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                _ => Poll::Ready(done),
            };
        }
        match self.poll_late(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if self.late_to_take(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(flushed) => {
                self.writing = None;
                Poll::Ready(flushed)
            }
            Poll::Pending if self.late_to_take(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Pending if self.late_to_take(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_cut_off_sooner_if_nobody_knows_it() {
        let (ours, _theirs) = duplex(64);
        let phase = Phase::default();
        let mut paced = Paced::new(ours, phase.clone());
        let start = Instant::now();
        assert_eq!(paced.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), FIRST_TIME.as_secs());

        let (ours, _theirs) = duplex(64);
        let mut paced = Paced::new(ours, phase.clone());
        phase.busy().welcome();
        let start = Instant::now();
        assert_eq!(paced.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), IDLE_TIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_is_cut_off() {
        let (ours, mut theirs) = duplex(64);
        let trickle = tokio::spawn(async move {
            while theirs.write_u8(b'x').await.is_ok() {
                sleep(Duration::from_secs(3)).await;
            }
        });
        let mut paced = Paced::new(ours, Phase::default());
        let start = Instant::now();
        let end = loop {
            if let Err(error) = paced.read_u8().await {
                break error;
            }
        };
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() <= REQUEST_TIME + Duration::from_secs(3));
        drop(paced);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_busy_the_peer_owes_nothing() {
        let (ours, _theirs) = duplex(64);
        let phase = Phase::default();
        let _busy = phase.busy();
        let mut paced = Paced::new(ours, phase);
        let waited = tokio::time::timeout(IDLE_TIME * 10, paced.read_u8()).await;
        assert!(waited.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_too_slowly_is_given_up() {
        let (ours, mut theirs) = duplex(64);
        let slow = tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                sleep(Duration::from_secs(3)).await;
            }
        });
        let mut paced = Paced::new(ours, Phase::default());
        let start = Instant::now();
        let written = paced.write_all(&[0; 1000]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() <= ANSWER_TIME + Duration::from_secs(3));
        drop(paced);
        slow.await.unwrap();
    }
}
