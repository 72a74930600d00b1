//! Backoff: exponential delays between retries, with jitter.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Exponential delays without an end. Jitter keeps the nodes of a cluster from retrying all at once.
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    /// Delays that begin at `first` and double up to `longest`, give or take a third.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        // backon adds up to as much again: from two thirds of a delay that is a third less to a third more.
        let lower = |delay: Duration| delay * 2 / 3;
        let delays = ExponentialBuilder::new().with_min_delay(lower(first)).with_max_delay(lower(longest));
        Self(delays.without_max_times().with_jitter().build())
    }

    /// The next delay.
    pub(crate) fn delay(&mut self) -> Duration {
        self.0.next().expect("neither the number nor the sum of the delays is limited")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_with_a_jitter_of_a_third() {
        let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(2));
        for nominal in [300, 600, 1200, 2000, 2000] {
            let (delay, third) = (backoff.delay().as_millis(), nominal / 3);
            assert!((nominal - third - 1..=nominal + third + 1).contains(&delay), "{delay} of {nominal}");
        }
    }
}
