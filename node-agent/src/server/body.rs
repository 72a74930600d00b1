//! Bodies: those of answers, and the unread rest of a request's.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use http_body_util::{BodyExt as _, Either, Full, StreamBody, combinators::InspectErr};
use hyper::{
    Response,
    body::{Body as _, Frame, Incoming},
    header,
    http::request::Parts,
};
use samovar_runtime::{BrokenOff, ResponseBody};

/// The response to a caller.
pub(super) type Answer = Response<Either<Full<Bytes>, Either<Lines, MeasuredBody>>>;

/// The body of a batch's answer.
pub(super) type Lines = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A guest's response on its way to the caller; its drop ends the exchange, which is then counted.
pub(super) type MeasuredBody = InspectErr<ResponseBody, Box<dyn FnMut(&BrokenOff) + Send>>;

/// An answer whose body is in memory.
pub(super) fn full(body: impl Into<Bytes>) -> Answer {
    Response::new(Either::Left(Full::new(body.into())))
}

/// The most bytes that are read and discarded of a body whose call has ended.
const DISCARDED_BYTES: usize = 16 << 20;
/// The longest that this may take.
const DISCARD: Duration = Duration::from_secs(1);

/// Reads and discards the rest of a body, within bounds, so that a caller who is still sending can read the answer: a
/// connection that is closed with unread bytes is reset, and the answer is lost.
pub(super) async fn discard(head: &Parts, mut body: Incoming) {
    // This caller waits for `100 Continue` before it sends the body; a read would send that.
    let waits =
        head.headers.contains_key(header::EXPECT) && head.headers.contains_key(header::CONTENT_LENGTH);
    if waits || body.is_end_stream() {
        return;
    }
    let rest = async {
        let mut left = DISCARDED_BYTES;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    let _ = tokio::time::timeout(DISCARD, rest).await;
}
