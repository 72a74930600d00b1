//! Turns a guest's stdout and stderr into log lines of its plugin, bounded in length and rate.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{output::stream::Sink, printable::printable};

/// Interval of the rate limit. Lines over the limit are dropped, and their number is logged at the end of the interval.
const SECOND: Duration = Duration::from_secs(1);
/// Longest line, in bytes; a longer one is logged in parts.
pub(crate) const LINE_BYTES: usize = 4096;

/// The log of one plugin, shared by its instances.
#[derive(Clone)]
pub(crate) struct GuestLog {
    plugin: Arc<str>,
    lines_per_second: u32,
    rate: Arc<Mutex<Rate>>,
}

struct Rate {
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl Rate {
    fn begin(&mut self) {
        (self.since, self.lines) = (Instant::now(), 0);
    }
}

impl GuestLog {
    pub(crate) fn new(plugin: &str, lines_per_second: u32) -> Self {
        let rate = Rate { since: Instant::now(), lines: 0, dropped: 0 };
        Self { plugin: plugin.into(), lines_per_second, rate: Arc::new(Mutex::new(rate)) }
    }

    /// Creates a stream into the log.
    pub(crate) fn stream(&self, name: &'static str) -> GuestStream {
        GuestStream { log: self.clone(), name, line: Arc::default() }
    }

    pub(crate) fn line(&self, stream: &'static str, line: &[u8]) {
        {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            if rate.since.elapsed() > SECOND {
                rate.begin();
            }
            if rate.lines >= self.lines_per_second {
                rate.dropped += 1;
                if rate.dropped == 1 {
                    self.sum_up_after(SECOND.saturating_sub(rate.since.elapsed()));
                }
                return;
            }
            rate.lines += 1;
        }
        tracing::info!(target: "samovar::guest", plugin = &*self.plugin, stream, "{}", printable(line));
    }

    /// Logs the number of dropped lines at the end of the interval, even if no more lines come.
    fn sum_up_after(&self, rest: Duration) {
        // Calls run in a tokio runtime; an instance that is dropped outside of one is the last.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let log = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(rest).await;
            let dropped = {
                let mut rate = log.rate.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut rate.dropped)
            };
            tracing::warn!(
                target: "samovar::guest",
                plugin = &*log.plugin,
                dropped,
                "lines over `limits.logLines`, {} a second, were dropped",
                log.lines_per_second
            );
        });
    }
}

/// One of a guest's output streams.
#[derive(Clone)]
pub(crate) struct GuestStream {
    log: GuestLog,
    name: &'static str,
    /// Bytes since the last newline.
    line: Arc<Mutex<Vec<u8>>>,
}

impl GuestStream {
    pub(crate) fn take(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in part.chunks(LINE_BYTES) {
                line.extend_from_slice(part);
                let whole = line.last() == Some(&b'\n');
                if whole || line.len() >= LINE_BYTES {
                    let end = line.len() - usize::from(whole);
                    self.log.line(self.name, &line[..end]);
                    line.clear();
                }
            }
        }
    }
}

/// Logs the last line of an instance that ends without a newline.
impl Drop for GuestStream {
    fn drop(&mut self) {
        if Arc::strong_count(&self.line) == 1 {
            let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if !line.is_empty() {
                self.log.line(self.name, &line);
            }
        }
    }
}

impl Sink for GuestStream {
    fn take_in(&self, bytes: &[u8]) -> Result<(), &'static str> {
        self.take(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_line_is_logged_in_parts_and_a_flood_is_dropped() {
        let log = GuestLog::new("demo/text", 7);
        let stream = log.stream("stdout");
        stream.take(&vec![b'x'; 10 * LINE_BYTES]);
        assert!(stream.line.lock().unwrap().len() < LINE_BYTES);
        stream.take("flood\n".repeat(1000).as_bytes());
        let rate = log.rate.lock().unwrap();
        assert_eq!((rate.lines, rate.dropped), (7, 1003));
    }
}
