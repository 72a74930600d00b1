//! Captures a command's stdout and the end of its stderr for the caller.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::{
    CallError,
    memory::budget::Reservation,
    output::{log::GuestStream, stream::Sink},
};

/// Length of the captured end of stderr, in bytes.
const STDERR_BYTES: usize = 4096;

/// A captured output stream of a command. Clones share the stream.
#[derive(Clone)]
pub(crate) struct Captured {
    stream: Arc<Mutex<Stream>>,
}

enum Stream {
    /// Captures everything up to a limit, in a reservation of the process's budget.
    Whole { bytes: BytesMut, limit: u64, reservation: Reservation, refusal: Option<CallError> },
    /// Captures the end, and logs everything.
    End { bytes: Vec<u8>, log: GuestStream },
}

impl Captured {
    /// Captures a whole stream. A guest that writes more than `limit` is stopped.
    pub(crate) fn whole(limit: u64, reservation: Reservation) -> Self {
        Self::new(Stream::Whole { bytes: BytesMut::new(), limit, reservation, refusal: None })
    }

    /// Captures the end of a stream.
    pub(crate) fn end(log: GuestStream) -> Self {
        Self::new(Stream::End { bytes: Vec::new(), log })
    }

    fn new(stream: Stream) -> Self {
        Self { stream: Arc::new(Mutex::new(stream)) }
    }

    /// Takes the captured bytes, or the reason why the guest was stopped while it wrote.
    pub(crate) fn take(&self) -> Result<Bytes, CallError> {
        match &mut *self.lock() {
            Stream::Whole { bytes, refusal, .. } => {
                refusal.take().map_or_else(|| Ok(bytes.split().freeze()), Err)
            }
            Stream::End { bytes, .. } => Ok(std::mem::take(bytes).into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// Takes bytes in; `false` stops the guest.
    fn write(&mut self, written: &[u8]) -> bool {
        match self {
            Self::Whole { bytes, limit, reservation, refusal } => {
                if refusal.is_none() {
                    *refusal = if (bytes.len() + written.len()) as u64 > *limit {
                        Some(CallError::ResponseTooLarge { limit: *limit })
                    } else {
                        reservation.try_grow(written.len() as u64).err().map(CallError::from)
                    };
                }
                if refusal.is_none() {
                    bytes.extend_from_slice(written);
                }
                refusal.is_none()
            }
            Self::End { bytes, log } => {
                log.take(written);
                bytes.extend_from_slice(&written[written.len().saturating_sub(STDERR_BYTES)..]);
                bytes.drain(..bytes.len().saturating_sub(STDERR_BYTES));
                true
            }
        }
    }
}

const STOPPED: &str = "it was stopped while it wrote to stdout";

impl Sink for Captured {
    fn take_in(&self, bytes: &[u8]) -> Result<(), &'static str> {
        if self.lock().write(bytes) { Ok(()) } else { Err(STOPPED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::budget::MemoryBudget, output::log::GuestLog};

    fn write(captured: &Captured, bytes: &[u8]) -> bool {
        captured.take_in(bytes).is_ok()
    }

    #[test]
    fn a_whole_stream_is_captured_and_the_guest_stopped_past_the_limit() {
        let stdout = Captured::whole(5, MemoryBudget::new(None).reservation());
        assert!(write(&stdout, b"abc") && write(&stdout, b"de"));
        assert_eq!(stdout.take().unwrap(), "abcde");
        assert!(write(&stdout, b"12345") && !write(&stdout, b"6"));
        assert!(matches!(stdout.take(), Err(CallError::ResponseTooLarge { limit: 5 })));
    }

    #[test]
    fn a_whole_stream_is_reserved_from_the_budget() {
        let budget = MemoryBudget::new(Some(4));
        let stdout = Captured::whole(100, budget.reservation());
        assert!(write(&stdout, b"abc") && !write(&stdout, b"de"));
        assert_eq!(budget.used(), 3);
        assert!(matches!(stdout.take(), Err(CallError::NodeMemory)));
    }

    #[test]
    fn the_end_of_stderr_is_captured() {
        let stderr = Captured::end(GuestLog::new("demo/text", 100).stream("stderr"));
        assert!(write(&stderr, &[b'x'; 3 * STDERR_BYTES]) && write(&stderr, b"the end"));
        let end = stderr.take().unwrap();
        assert_eq!(end.len(), STDERR_BYTES);
        assert!(end.ends_with(b"xthe end"));
    }
}
