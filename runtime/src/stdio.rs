//! A command's stdout and the end of its stderr, kept for its caller.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::{
    CallError,
    budget::Share,
    guest_log::{GuestStream, WRITE_BYTES},
};

/// What is kept of stderr's end, in bytes.
const STDERR_BYTES: usize = 4096;

/// What a command writes to one of its streams. Clones are the same stream.
#[derive(Clone)]
pub(crate) struct Captured {
    stream: Arc<Mutex<Stream>>,
}

enum Stream {
    /// All of it, up to a limit, drawn into a share of the node's budget.
    Whole { bytes: BytesMut, limit: u64, share: Share, refusal: Option<CallError> },
    /// Its end; all of it is logged.
    End { bytes: Vec<u8>, log: GuestStream },
}

impl Captured {
    /// A stream that is kept whole. A guest that writes more than `limit` is stopped.
    pub(crate) fn whole(limit: u64, share: Share) -> Self {
        Self::new(Stream::Whole { bytes: BytesMut::new(), limit, share, refusal: None })
    }

    /// A stream of which only the end is kept.
    pub(crate) fn end(log: GuestStream) -> Self {
        Self::new(Stream::End { bytes: Vec::new(), log })
    }

    fn new(stream: Stream) -> Self {
        Self { stream: Arc::new(Mutex::new(stream)) }
    }

    /// What was written, or its end; or why the guest was stopped while it wrote.
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
    /// Whether the guest may go on.
    fn write(&mut self, written: &[u8]) -> bool {
        match self {
            Self::Whole { bytes, limit, share, refusal } => {
                if refusal.is_none() {
                    *refusal = if (bytes.len() + written.len()) as u64 > *limit {
                        Some(CallError::ResponseTooLarge { limit: *limit })
                    } else {
                        share.grow(written.len() as u64).err().map(CallError::from)
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

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}

impl OutputStream for Captured {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.lock().write(&bytes) { Ok(()) } else { Err(StreamError::Trap(wasmtime::Error::msg(STOPPED))) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for Captured {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let goes_on = self.lock().write(bytes);
        Poll::Ready(if goes_on { Ok(bytes.len()) } else { Err(io::Error::other(STOPPED)) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{budget::MemoryBudget, guest_log::GuestLog};

    fn write(captured: &Captured, bytes: &[u8]) -> bool {
        captured.lock().write(bytes)
    }

    #[test]
    fn a_whole_stream_is_kept_up_to_its_limit_and_the_guest_is_stopped_past_it() {
        let stdout = Captured::whole(5, MemoryBudget::new(None).share());
        assert!(write(&stdout, b"abc") && write(&stdout, b"de"));
        assert_eq!(stdout.take().unwrap(), "abcde");
        assert!(write(&stdout, b"12345") && !write(&stdout, b"6"));
        assert!(matches!(stdout.take(), Err(CallError::ResponseTooLarge { limit: 5 })));
    }

    #[test]
    fn a_whole_stream_is_drawn_from_the_budget() {
        let budget = MemoryBudget::new(Some(4));
        let stdout = Captured::whole(100, budget.share());
        assert!(write(&stdout, b"abc") && !write(&stdout, b"de"));
        assert_eq!(budget.used(), 3);
        assert!(matches!(stdout.take(), Err(CallError::NodeMemory)));
    }

    #[test]
    fn of_stderr_the_end_is_kept() {
        let stderr = Captured::end(GuestLog::new("demo/text").stream("stderr"));
        assert!(write(&stderr, &[b'x'; 3 * STDERR_BYTES]) && write(&stderr, b"the end"));
        let end = stderr.take().unwrap();
        assert_eq!(end.len(), STDERR_BYTES);
        assert!(end.ends_with(b"xthe end"));
    }
}
