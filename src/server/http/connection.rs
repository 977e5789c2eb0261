//! Connections: let in if there is room, secured if they are to be, served until they end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::pace::{Paced, Phase};
use super::request::{self, Peer};
use super::{Serves, Shared};

/// Most connections at a time.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Most connections at a time from one address.
pub(super) const MAX_PER_ADDRESS: usize = 256;
/// Longest head of a request.
const MAX_HEAD: usize = 32 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// How long TLS may take to agree.
const TLS_TIME: Duration = Duration::from_secs(10);

/// Who is connected. May be used from any thread.
#[derive(Default)]
pub(super) struct Room(Mutex<HashMap<IpAddr, usize>>);

/// A place in the room.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Room {
    fn enter(&self, address: IpAddr) -> bool {
        let mut present = self.0.lock();
        let total: usize = present.values().sum();
        let own = present.entry(address).or_default();
        let admitted = total < MAX_CONNECTIONS && *own < MAX_PER_ADDRESS;
        *own += usize::from(admitted);
        admitted
    }

    fn leave(&self, address: IpAddr) {
        let mut present = self.0.lock();
        if let Some(own) = present.get_mut(&address) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                present.remove(&address);
            }
        }
    }
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        if !shared.room.enter(address) {
            shared.metrics.turned_away.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
        shared.metrics.open_connections.fetch_add(1, Ordering::Relaxed);
        Some(Self { shared: Arc::clone(shared), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.metrics.open_connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.room.leave(self.address);
    }
}

/// Lets connections in until `end` says so.
pub(super) async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    serves: Serves,
    mut end: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ended(&mut end) => return,
        };
        match accepted {
            Ok((stream, from)) => {
                // Without room the connection is closed, which clients take for a reason to retry.
                if let Some(place) = Place::take(&shared, from.ip().to_canonical()) {
                    let serving = serve(Arc::clone(&shared), stream, from, serves, end.clone());
                    tokio::spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a network connection failed");
                // Out of descriptors, most likely: do not spin.
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    serves: Serves,
    end: watch::Receiver<bool>,
) {
    // Small messages both ways, each of them awaited.
    let _ = stream.set_nodelay(true);
    let tls = shared.tls.read().clone().filter(|_| serves.calls);
    let peer = Peer {
        address: from.ip().to_canonical(),
        secure: tls.is_some(),
        sees_pages: serves.pages,
        may_call: serves.calls,
        phase: Phase::default(),
    };
    let Some(tls) = tls else { return converse(shared, stream, peer, end).await };
    match timeout(TLS_TIME, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(shared, stream, peer, end).await,
        Ok(Err(error)) => tracing::debug!(address = %peer.address, %error, "no TLS"),
        Err(_elapsed) => tracing::debug!(address = %peer.address, "TLS took too long"),
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    shared: Arc<Shared>,
    stream: S,
    peer: Peer,
    mut end: watch::Receiver<bool>,
) {
    let io = TokioIo::new(Paced::new(stream, peer.phase.clone()));
    let address = peer.address;
    let service = service_fn(move |request| request::answer(Arc::clone(&shared), peer.clone(), request));
    let mut builder = http1::Builder::new();
    // The stream keeps the time.
    builder.header_read_timeout(None).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = ended(&mut end) => {
            // What is under way is answered, what is idle ends.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%address, %error, "a network connection ended");
    }
}

/// Waits until the server is to end.
async fn ended(end: &mut watch::Receiver<bool>) {
    // Whoever could say so is gone: that is an end too.
    let _ = end.wait_for(|end| *end).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_the_room() {
        let room = Room::default();
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        for _ in 0..MAX_PER_ADDRESS {
            assert!(room.enter(address(1)));
        }
        assert!(!room.enter(address(1)));
        for other in 2..=4 {
            for _ in 0..MAX_PER_ADDRESS {
                assert!(room.enter(address(other)));
            }
        }
        assert!(!room.enter(address(5)), "full");
        room.leave(address(1));
        assert!(room.enter(address(5)));
        assert!(!room.enter(address(1)), "full again");
    }
}
