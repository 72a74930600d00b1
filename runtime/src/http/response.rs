//! A response's body: the frames that were read before the response was sent, then the ones that the guest still writes.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use wasmtime_wasi_http::WasiBody;

use super::Fault;
use crate::{CallError, Reservation, grants::network::CHUNK_BYTES};

/// The most bytes that are read before a response is sent. A response that is complete by then is sent with its length,
/// and needs no task of its own.
const READ_AHEAD: u64 = CHUNK_BYTES as u64;
/// Yields to the connection while the guest waits, before the response is sent: the guest mostly waits for the request's
/// body, which the connection delivers.
const TURNS: u32 = 2;
/// The most bytes that a guest has written and nobody has read.
const WRITTEN_AHEAD: u64 = 2 * CHUNK_BYTES as u64;

/// A response's body, with backpressure on the guest that writes it. Dropping it before its end stops the guest.
pub struct ResponseBody {
    buffered: VecDeque<Frame<Bytes>>,
    rest: Option<BodyTail>,
    /// Only the head is sent to the caller, so the body's length is unknown.
    only_head: bool,
    _held: Reservation,
}

/// The error of a body that ended early.
#[derive(Debug, thiserror::Error)]
#[error("the response broke off: {0}")]
pub struct BrokenOff(#[from] pub CallError);

/// A response whose body the guest may still be writing.
pub(super) struct StartedResponse<G> {
    pub(super) body: WasiBody,
    /// False if no body is sent to the caller.
    pub(super) has_body: bool,
    /// The body's largest size, in bytes.
    pub(super) limit: u64,
    /// The head's `content-length`.
    pub(super) length: Option<u64>,
    /// The guest, unless it has ended.
    pub(super) guest: Option<Pin<Box<G>>>,
    pub(super) fault: Fault,
}

impl<G: Future<Output = ()> + Send + 'static> StartedResponse<G> {
    /// Runs the guest and reads its body until it waits. A guest that has not ended then continues in a task of its own,
    /// where its deadline ends it even if nobody reads the body.
    pub(super) async fn read_ahead(self, held: Reservation) -> Result<ResponseBody, CallError> {
        let Self { body, has_body, limit, length, mut guest, fault } = self;
        if has_body && length.is_some_and(|length| length > limit) {
            return Err(CallError::ResponseTooLarge { limit });
        }
        let mut rest = BodyTail { body, limit, length, sent: 0, guest: Guest(None), fault };
        let mut buffered = VecDeque::new();
        let mut turns = TURNS;
        let ended = poll_fn(|context| {
            let mut waits = false;
            let ended = loop {
                if !has_body {
                    break true;
                }
                match rest.poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        buffered.push_back(frame);
                        if rest.sent >= READ_AHEAD {
                            break false;
                        }
                        waits = false;
                    }
                    Poll::Ready(Some(Err(BrokenOff(error)))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => break true,
                    Poll::Pending if waits && turns > 0 => {
                        turns -= 1;
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Pending if waits => break false,
                    Poll::Pending => waits = poll_guest(&mut guest, context),
                }
            };
            if ended {
                poll_guest(&mut guest, context);
            }
            Poll::Ready(Ok(ended))
        })
        .await?;
        let written_ahead = if ended { 0 } else { WRITTEN_AHEAD };
        held.try_grow(rest.sent + written_ahead)?;
        let mut body = ResponseBody { buffered, rest: Some(rest), only_head: !has_body, _held: held };
        if let Some(rest) = &mut body.rest {
            rest.guest = Guest(guest.map(tokio::spawn));
        }
        if ended {
            body.end();
        }
        Ok(body)
    }
}

/// Polls the guest. Returns true if it waits, or has ended before.
fn poll_guest<G: Future<Output = ()>>(guest: &mut Option<Pin<Box<G>>>, context: &mut Context<'_>) -> bool {
    let waits = guest.as_mut().is_none_or(|running| running.as_mut().poll(context).is_pending());
    if !waits {
        *guest = None;
    }
    waits
}

impl ResponseBody {
    /// Ends the body. Its guest may continue until its deadline.
    fn end(&mut self) {
        if let Some(BodyTail { guest, .. }) = &mut self.rest.take() {
            guest.detach();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(frame) = self.buffered.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = ready!(rest.poll_frame(context));
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.rest = None,
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.buffered.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.only_head || self.rest.is_some() || self.buffered.iter().any(Frame::is_trailers) {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.buffered.iter().map(data_bytes).sum())
    }
}

/// The unread rest of a body.
struct BodyTail {
    body: WasiBody,
    limit: u64,
    length: Option<u64>,
    sent: u64,
    guest: Guest,
    fault: Fault,
}

impl BodyTail {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(error) = self.fault.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        let unfinished = || BrokenOff(CallError::trap("it did not finish its response's body"));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                self.sent += data_bytes(&frame);
                if self.sent > self.limit {
                    let limit = self.limit;
                    return Poll::Ready(Some(Err(CallError::ResponseTooLarge { limit }.into())));
                }
                if self.length == Some(self.sent) {
                    // The announced length is complete, so the caller reads no further.
                    self.guest.detach();
                }
                Some(Ok(frame))
            }
            Some(Err(_)) => Some(Err(unfinished())),
            None if self.length.is_some_and(|length| length > self.sent) => Some(Err(unfinished())),
            None => None,
        })
    }
}

fn data_bytes(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, Bytes::len) as u64
}

/// The task of a guest. Dropping this stops the guest, unless it is detached.
struct Guest(Option<JoinHandle<()>>);

impl Guest {
    fn detach(&mut self) {
        self.0 = None;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
