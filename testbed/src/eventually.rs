//! Waits for a condition, with a deadline.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, interval};

/// Repeats `attempt` at this interval until it succeeds; after the deadline returns its last error.
pub async fn eventually<T>(
    within: Duration,
    every: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut look = interval(every);
    loop {
        look.tick().await;
        match attempt().await {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
            done => return done,
        }
    }
}
