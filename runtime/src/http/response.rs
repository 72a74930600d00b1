//! A response's body on its way out of a guest: what was there when its head was, and then what the guest still writes.

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

use super::{CHUNK_BYTES, Fault};
use crate::{CallError, Reservation};

/// The most that is read before a response is sent. One that is there by then is sent as a whole, with its length, and
/// needs no task of its own.
const READ_AHEAD: u64 = CHUNK_BYTES as u64;
/// How often the connection gets a turn before that, to bring what the guest waits for: the request's body, mostly.
const TURNS: u32 = 2;
/// What a guest may have written that is not read yet.
const WRITTEN_AHEAD: u64 = 2 * CHUNK_BYTES as u64;

/// A response's body. A guest writes no faster than it is read; dropping it before its end stops the guest.
pub struct ResponseBody {
    is_warm: VecDeque<Frame<Bytes>>,
    rest: Option<BodyTail>,
    /// No more than a head goes to the caller: nothing is said of the body's length.
    only_head: bool,
    _held: Reservation,
}

/// What ended a body before its end.
#[derive(Debug, thiserror::Error)]
#[error("the response broke off: {0}")]
pub struct BrokenOff(#[from] pub CallError);

/// A response that a guest has begun, and may still be writing.
pub(super) struct StartedResponse<G> {
    pub(super) body: WasiBody,
    /// Whether the caller takes a body at all.
    pub(super) has_body: bool,
    /// The most bytes that it may have.
    pub(super) limit: u64,
    /// The bytes that its head says it has.
    pub(super) length: Option<u64>,
    /// The guest, if it has not ended.
    pub(super) guest: Option<Pin<Box<G>>>,
    pub(super) fault: Fault,
}

impl<G: Future<Output = ()> + Send + 'static> StartedResponse<G> {
    /// Reads what the guest has for the body already, for as long as it does not wait. A guest that has more to do then
    /// goes on in a task of its own, since whoever reads the body may stop to, and is ended there at its deadline.
    pub(super) async fn read_ahead(self, held: Reservation) -> Result<ResponseBody, CallError> {
        let Self { body, has_body, limit, length, mut guest, fault } = self;
        if has_body && length.is_some_and(|length| length > limit) {
            return Err(CallError::ResponseTooLarge { limit });
        }
        let mut rest = BodyTail { body, limit, length, sent: 0, guest: Guest(None), fault };
        let mut is_warm = VecDeque::new();
        let mut turns = TURNS;
        let ended = poll_fn(|context| {
            let mut waits = false;
            let ended = loop {
                if !has_body {
                    break true;
                }
                match rest.poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        is_warm.push_back(frame);
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
        let on_its_way = if ended { 0 } else { WRITTEN_AHEAD };
        held.try_grow(rest.sent + on_its_way)?;
        let mut body = ResponseBody { is_warm, rest: Some(rest), only_head: !has_body, _held: held };
        if let Some(rest) = &mut body.rest {
            rest.guest = Guest(guest.map(tokio::spawn));
        }
        if ended {
            body.end();
        }
        Ok(body)
    }
}

/// Whether there is no guest, or one that waits.
fn poll_guest<G: Future<Output = ()>>(guest: &mut Option<Pin<Box<G>>>, context: &mut Context<'_>) -> bool {
    let waits = guest.as_mut().is_none_or(|running| running.as_mut().poll(context).is_pending());
    if !waits {
        *guest = None;
    }
    waits
}

impl ResponseBody {
    /// The body is at its end, and its guest may go on without it until its deadline.
    fn end(&mut self) {
        if let Some(BodyTail { guest, .. }) = &mut self.rest.take() {
            guest.let_go();
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
        if let Some(frame) = self.is_warm.pop_front() {
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
        self.is_warm.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.only_head || self.rest.is_some() || self.is_warm.iter().any(Frame::is_trailers) {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.is_warm.iter().map(data_bytes).sum())
    }
}

/// What is not read of a body yet.
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
                    // Nobody reads on who has all that was promised.
                    self.guest.let_go();
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

/// A guest that goes on by itself. It is stopped when this is dropped, unless it was let go.
struct Guest(Option<JoinHandle<()>>);

impl Guest {
    fn let_go(&mut self) {
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
