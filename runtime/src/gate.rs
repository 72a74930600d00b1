//! The gate in front of a plugin: so many calls at once, so many more that wait, and no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets `concurrency` calls run and `queue` calls wait.
pub(crate) struct Gate {
    running: Arc<Semaphore>,
    concurrency: u32,
    waiting: AtomicU32,
    queue: u32,
}

/// The right to run one call.
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
    /// How long it waited for others to end.
    pub(crate) waited: Duration,
}

/// As many calls wait as may.
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

    /// Enters at once, waits in the queue, or is refused at once.
    pub(crate) async fn enter(&self) -> Result<Permit, QueueFull> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(Permit { _permit: permit, waited: Duration::ZERO });
        }
        let since = Instant::now();
        let _place = Place::take(self)?;
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(|_| QueueFull)?;
        Ok(Permit { _permit: permit, waited: since.elapsed() })
    }

    /// Calls that run now.
    pub(crate) fn running(&self) -> u32 {
        self.concurrency - u32::try_from(self.running.available_permits()).unwrap_or(self.concurrency)
    }

    /// Calls that wait now.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A place in the queue, given back when the wait ends, however it ends.
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
    async fn past_concurrency_calls_wait_and_past_the_queue_they_are_refused() {
        let gate = Gate::new(2, 1);
        let first = gate.enter().await.unwrap();
        let _second = gate.enter().await.unwrap();
        let mut third = Box::pin(gate.enter());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!((gate.running(), gate.waiting()), (2, 1));
        assert_eq!(gate.enter().await.err(), Some(QueueFull));
        drop(first);
        assert!(third.await.is_ok());
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test]
    async fn a_call_that_stops_waiting_gives_its_place_back() {
        let gate = Gate::new(1, 1);
        let _first = gate.enter().await.unwrap();
        for _ in 0..3 {
            assert!(gate.enter().now_or_never().is_none());
        }
        assert_eq!(gate.waiting(), 0);
    }
}
