//! Implements the output streams of each WASI version on top of one sink.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

/// Permitted length of one write, in bytes.
const WRITE_BYTES: usize = 64 << 10;

/// Takes a guest's output synchronously. Clones share the stream.
pub(crate) trait Sink: Clone + Send + Sync + 'static {
    /// Takes the bytes, or returns the reason why the guest is stopped.
    fn take_in(&self, bytes: &[u8]) -> Result<(), &'static str>;
}

/// Adapts a sink to WASI's streams.
#[derive(Clone)]
pub(crate) struct GuestOutput<S>(pub(crate) S);

impl<S> IsTerminal for GuestOutput<S> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<S: Sink + Unpin> StdoutStream for GuestOutput<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl<S: Sink> Pollable for GuestOutput<S> {
    async fn ready(&mut self) {}
}

impl<S: Sink> OutputStream for GuestOutput<S> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.take_in(&bytes).map_err(|why| StreamError::Trap(wasmtime::Error::msg(why)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl<S: Sink> AsyncWrite for GuestOutput<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.take_in(bytes).map(|()| bytes.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
