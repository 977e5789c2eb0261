//! Threads on which the key service is called, for a call may wait for a disk or for mounts.
//!
//! Bounded, and apart for calls that change something, which can take long, so that they never hold
//! up those that only use keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Calls at a time that change nothing.
const READERS: usize = 48;
/// Calls at a time that change something.
const CHANGERS: usize = 16;
/// All threads, some for what is neither.
pub(super) const MAX_THREADS: usize = READERS + CHANGERS + 4;
/// How long a call may wait for a thread.
const QUEUE_TIME: Duration = Duration::from_secs(2);
/// How long a call that changes nothing may take.
const READ_TIME: Duration = Duration::from_secs(10);
/// How long a change may take: mounts write back what is dirty before a key is revoked.
const CHANGE_TIME: Duration = Duration::from_secs(45);

/// The right to so many threads.
pub(super) struct Workers {
    readers: Pool,
    changers: Pool,
}

struct Pool {
    free: Arc<Semaphore>,
    /// How long a call may wait for a thread.
    queue: Duration,
    /// How long it may take then.
    time: Duration,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoResult {
    /// All threads are busy.
    Busy,
    /// It takes too long. It goes on, and keeps its thread until it ends.
    Slow,
    /// It panicked.
    Broken,
}

impl Default for Workers {
    fn default() -> Self {
        let pool = |threads, time| Pool { free: Arc::new(Semaphore::new(threads)), queue: QUEUE_TIME, time };
        Self { readers: pool(READERS, READ_TIME), changers: pool(CHANGERS, CHANGE_TIME) }
    }
}

impl Workers {
    /// Calls `work` on a thread that may wait.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        changes: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        let pool = if changes { &self.changers } else { &self.readers };
        pool.run(work).await
    }
}

impl Pool {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NoResult> {
        let place = timeout(self.queue, Arc::clone(&self.free).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(NoResult::Busy) };
        let working = spawn_blocking(move || {
            let _place = place;
            work()
        });
        match timeout(self.time, working).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_panicked)) => Err(NoResult::Broken),
            Err(_elapsed) => Err(NoResult::Slow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn pool(time: Duration) -> Pool {
        Pool { free: Arc::new(Semaphore::new(1)), queue: Duration::from_millis(10), time }
    }

    #[tokio::test]
    async fn a_slow_call_gets_its_error_and_keeps_its_place_until_it_ends() {
        let pool = pool(Duration::from_millis(50));
        let (end, ended) = channel::<()>();
        assert_eq!(pool.run(move || ended.recv().is_err()).await, Err(NoResult::Slow));
        assert_eq!(pool.run(|| ()).await, Err(NoResult::Busy));
        drop(end);
        // Its thread gives the place back on its own.
        let _place = pool.free.acquire().await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_stays_in_its_call() {
        let pool = pool(READ_TIME);
        assert_eq!(pool.run(|| panic!("a bug")).await, Err::<(), _>(NoResult::Broken));
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }
}
