//! A request's body on its way into a guest, within the plugin's limit of bytes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use super::Fault;
use crate::CallError;

/// A caller's body as its guest reads it. Nothing is read before the guest asks for it.
pub(crate) struct RequestBody<B> {
    body: B,
    left: u64,
    limit: u64,
    fault: Fault,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, limit: u64, fault: Fault) -> Self {
        Self { body, left: limit, limit, fault }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        // Why it broke off is between the caller and this host.
        let Ok(frame) = frame else { return Poll::Ready(Some(Err(Error::ConnectionTerminated))) };
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        if bytes > self.left {
            let limit = self.limit;
            self.fault.set(CallError::TooLarge { limit });
            return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(limit)))));
        }
        self.left -= bytes;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
