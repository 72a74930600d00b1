//! A guest's stdout and stderr become log lines of its plugin, bounded in length and rate.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{guest_output::Sink, told::printable};

/// Lines that a plugin may log in a second; what is over is counted and dropped.
const LINES_PER_SECOND: u32 = 100;
/// The longest line, in bytes; a longer one is logged in parts.
pub(crate) const LINE_BYTES: usize = 4096;

/// Where the lines of one plugin's instances go.
#[derive(Clone)]
pub(crate) struct GuestLog {
    plugin: Arc<str>,
    rate: Arc<Mutex<Rate>>,
}

struct Rate {
    second: Instant,
    lines: u32,
    dropped: u64,
}

impl GuestLog {
    pub(crate) fn new(plugin: &str) -> Self {
        let rate = Rate { second: Instant::now(), lines: 0, dropped: 0 };
        Self { plugin: plugin.into(), rate: Arc::new(Mutex::new(rate)) }
    }

    /// A new stream into the log.
    pub(crate) fn stream(&self, name: &'static str) -> GuestStream {
        GuestStream { log: self.clone(), name, line: Arc::default() }
    }

    pub(crate) fn line(&self, stream: &'static str, line: &[u8]) {
        let dropped = {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            if rate.second.elapsed() > Duration::from_secs(1) {
                rate.second = Instant::now();
                rate.lines = 0;
            }
            if rate.lines >= LINES_PER_SECOND {
                rate.dropped += 1;
                return;
            }
            rate.lines += 1;
            std::mem::take(&mut rate.dropped)
        };
        if dropped > 0 {
            tracing::warn!(target: "samovar::guest", plugin = &*self.plugin, dropped, "lines over the limit of {LINES_PER_SECOND} a second were dropped");
        }
        tracing::info!(target: "samovar::guest", plugin = &*self.plugin, stream, "{}", printable(line));
    }
}

/// One of a guest's output streams.
#[derive(Clone)]
pub(crate) struct GuestStream {
    log: GuestLog,
    name: &'static str,
    /// What was written since the last newline.
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

/// What was written without a last newline is logged when the instance ends.
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
    fn a_line_without_end_is_cut_and_a_flood_is_dropped() {
        let log = GuestLog::new("demo/text");
        let stream = log.stream("stdout");
        stream.take(&vec![b'x'; 10 * LINE_BYTES]);
        assert!(stream.line.lock().unwrap().len() < LINE_BYTES);
        stream.take("flood\n".repeat(1000).as_bytes());
        let rate = log.rate.lock().unwrap();
        assert_eq!(rate.lines, LINES_PER_SECOND);
        assert!(rate.dropped > 800);
    }
}
