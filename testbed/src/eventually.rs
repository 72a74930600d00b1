//! Waiting for what comes about by itself.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, interval};

/// Tries again and again, every so often, until it works; past the deadline gives the last error.
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
