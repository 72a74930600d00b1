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

pub(super) type Answer = Response<Either<Full<Bytes>, Either<Lines, MeasuredBody>>>;

/// The answers of a batch.
pub(super) type Lines = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A guest's response on its way to the caller, with the timer that counts the exchange when the body is dropped.
pub(super) type MeasuredBody = InspectErr<ResponseBody, Box<dyn FnMut(&BrokenOff) + Send>>;

/// An answer that is there as a whole.
pub(super) fn full(body: impl Into<Bytes>) -> Answer {
    Response::new(Either::Left(Full::new(body.into())))
}

/// What is read and thrown away of a body whose call has ended already.
const DISCARDED_BYTES: usize = 16 << 20;
/// How long that may take.
const DISCARD: Duration = Duration::from_secs(1);

/// Reads on for a while and throws away, so that a caller who is still sending when the answer is known gets to
/// read it: a connection that is closed with bytes unread is reset, and the answer with it.
pub(super) async fn discard(head: &Parts, mut body: Incoming) {
    // Such a caller waits for the answer before it sends; reading would tell it to go on.
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
