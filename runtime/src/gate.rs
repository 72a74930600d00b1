//! The concurrency limiter of a plugin or function: permits, and a bounded queue for the calls that wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets `concurrency` calls run and `queue` calls wait, and refuses all others.
pub(crate) struct Gate {
    running: Arc<Semaphore>,
    concurrency: u32,
    waiting: AtomicU32,
    queue: u32,
}

/// The permit of one running call.
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
    /// The time that the call was queued.
    pub(crate) waited: Duration,
}

/// The queue has no place left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

impl Gate {
    pub(crate) fn new(concurrency: u32, queue: u32) -> Self {
        let concurrency = concurrency.max(1);
        Self {
            running: Arc::new(Semaphore::new(concurrency as usize)),
            concurrency,
            waiting: AtomicU32::new(0),
            queue,
        }
    }

    /// Acquires a permit, after a wait in the queue if none is free.
    pub(crate) async fn acquire(&self) -> Result<Permit, QueueFull> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(Permit { _permit: permit, waited: Duration::ZERO });
        }
        let since = Instant::now();
        let _place = Place::take(self)?;
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(|_| QueueFull)?;
        Ok(Permit { _permit: permit, waited: since.elapsed() })
    }

    /// Running calls.
    pub(crate) fn running(&self) -> u32 {
        self.concurrency - u32::try_from(self.running.available_permits()).unwrap_or(self.concurrency)
    }

    /// Queued calls.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A place in the queue, released when the wait ends, even if it is cancelled.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(gate: &'a Gate) -> Result<Self, QueueFull> {
        gate.waiting
            .try_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < gate.queue).then_some(waiting + 1)
            })
            .map(|_| Self(&gate.waiting))
            .map_err(|_| QueueFull)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn calls_past_the_concurrency_wait_and_past_the_queue_are_refused() {
        let gate = Gate::new(2, 1);
        let first = gate.acquire().await.unwrap();
        let _second = gate.acquire().await.unwrap();
        let mut third = Box::pin(gate.acquire());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!((gate.running(), gate.waiting()), (2, 1));
        assert_eq!(gate.acquire().await.err(), Some(QueueFull));
        drop(first);
        assert!(third.await.is_ok());
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test]
    async fn a_cancelled_wait_releases_its_place() {
        let gate = Gate::new(1, 1);
        let _first = gate.acquire().await.unwrap();
        for _ in 0..3 {
            assert!(gate.acquire().now_or_never().is_none());
        }
        assert_eq!(gate.waiting(), 0);
    }
}
