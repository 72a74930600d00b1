//! Batches, `application/x-ndjson`: a call per line, an answer per line, in order, each sent before the next is read.

use std::{sync::Arc, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use http_body_util::{BodyExt as _, Either, StreamBody};
use hyper::{
    HeaderMap, Response,
    body::{Frame, Incoming},
    header,
    header::HeaderValue,
};
use samovar_runtime::{Call, CallError, Format, MemoryBudget, Reservation};

use crate::server::{
    Server,
    body::Answer,
    invoke::{self, essence},
    problem::Problem,
    problem_type::ProblemType,
    routes::{Endpoint, Serving},
};

const NDJSON: &str = "application/x-ndjson";

/// True if a request is a batch, by its content type.
pub(super) fn is_batch(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media.is_some_and(|media| essence(media).eq_ignore_ascii_case(NDJSON))
}

/// The answer to a batch: its calls run as the caller reads it.
pub(super) fn answer(
    server: Arc<Server>,
    serving: Arc<Serving>,
    endpoint: Arc<Endpoint>,
    body: Incoming,
) -> Answer {
    let lines = Reader::new(body, endpoint.function.request_bytes(), server.memory.clone());
    let batch = Batch { server, serving, endpoint, lines };
    let answers = stream::unfold(Some(batch), |batch| async {
        let mut batch = batch?;
        let (line, goes_on) = batch.next().await?;
        Some((Ok(Frame::data(line)), goes_on.then_some(batch)))
    });
    let mut response = Response::new(Either::Right(Either::Left(StreamBody::new(answers.boxed()))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

struct Batch {
    server: Arc<Server>,
    serving: Arc<Serving>,
    endpoint: Arc<Endpoint>,
    lines: Reader<Incoming>,
}

impl Batch {
    /// The next answer, and true if more may follow.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        let Self { server, serving, endpoint, lines } = self;
        let line = tokio::time::timeout(endpoint.function.timeout(), lines.next()).await;
        let started = Instant::now();
        let (result, goes_on) = match line {
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(Line { body: Ok(body), held }))) => {
                let call = Call { body, format: Format::Json, answer_bytes: false };
                let answer = invoke::run(server, serving, &endpoint.function, call).await;
                (answer.and_then(|answer| rendered(&answer, held)), true)
            }
            Ok(Ok(Some(Line { body: Err(refusal), .. }))) => (Err(refusal.into()), true),
            Ok(Err(Incomplete)) => (Err(Problem::new(ProblemType::BadArguments, Incomplete)), false),
            Err(_) => {
                let late =
                    "the next line did not arrive within the function's time limit; the batch ends here";
                (Err(Problem::new(ProblemType::Timeout, late)), false)
            }
        };
        let outcome = result.as_ref().map(drop).map_err(|problem| problem.kind);
        endpoint.metrics.answered(outcome, started.elapsed());
        let line = result.unwrap_or_else(|problem| {
            let mut line = problem.json();
            line.push(b'\n');
            line.into()
        });
        Some((line, goes_on))
    }
}

/// Renders an answer as a line: JSON as it is, text as a string, bytes as a base64 string.
fn rendered(answer: &samovar_runtime::Answer, held: Reservation) -> Result<Bytes, Problem> {
    let mut line = match answer.format {
        Format::Json => answer.body.to_vec(),
        Format::Text => serde_json::to_vec(&String::from_utf8_lossy(&answer.body)).unwrap_or_default(),
        Format::Bytes => format!("\"{}\"", BASE64_STANDARD.encode(&answer.body)).into_bytes(),
    };
    line.push(b'\n');
    Ok(held.hold(line).map_err(CallError::from)?)
}

/// Reads a body line by line, each of at most `limit` bytes.
struct Reader<B> {
    body: B,
    /// Bytes that were received and not yet read.
    rest: Bytes,
    limit: u64,
    memory: MemoryBudget,
}

/// A line, or the reason that it was not kept, and the reservation of its memory.
struct Line {
    body: Result<Bytes, CallError>,
    held: Reservation,
}

#[derive(Debug, thiserror::Error)]
#[error("the request body is incomplete")]
struct Incomplete;

impl<B: hyper::body::Body<Data = Bytes> + Unpin> Reader<B> {
    fn new(body: B, limit: u64, memory: MemoryBudget) -> Self {
        Self { body, rest: Bytes::new(), limit, memory }
    }

    /// The next line that is not blank. One that is too large is read to its end and not kept.
    async fn next(&mut self) -> Result<Option<Line>, Incomplete> {
        loop {
            let (line, ended) = self.line().await?;
            let is_blank = line.body.as_ref().is_ok_and(|body| body.trim_ascii().is_empty());
            match (is_blank, ended) {
                (false, _) => return Ok(Some(line)),
                (true, true) => return Ok(None),
                (true, false) => {}
            }
        }
    }

    /// The next line, and true if the body ends with it.
    async fn line(&mut self) -> Result<(Line, bool), Incomplete> {
        let mut whole = BytesMut::new();
        let held = self.memory.reservation();
        let mut refusal = None;
        loop {
            let newline = self.rest.iter().position(|&byte| byte == b'\n');
            let part = self.rest.split_to(newline.unwrap_or(self.rest.len()));
            if refusal.is_none() {
                refusal = if (whole.len() + part.len()) as u64 > self.limit {
                    Some(CallError::TooLarge { limit: self.limit })
                } else {
                    held.try_grow(part.len() as u64).err().map(CallError::from)
                };
            }
            match refusal {
                None => whole.extend_from_slice(&part),
                Some(_) => whole = BytesMut::new(),
            }
            let ended = newline.is_none() && !self.receive().await?;
            if newline.is_some() || ended {
                if newline.is_some() {
                    self.rest.advance(1);
                }
                let body = refusal.map_or_else(|| Ok(whole.freeze()), Err);
                return Ok((Line { body, held }, ended));
            }
        }
    }

    /// Receives more bytes; false at the end of the body.
    async fn receive(&mut self) -> Result<bool, Incomplete> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|_| Incomplete)?.into_data() {
                self.rest = data;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use samovar_runtime::{Engine, EngineOptions};

    use super::*;

    /// Reads frames as lines, with `!` for one that is too large.
    async fn read(frames: &[&'static str]) -> Vec<String> {
        let engine = Engine::new(&EngineOptions { instances: 1, ..EngineOptions::default() }).unwrap();
        let frames: Vec<_> = frames
            .iter()
            .map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes()))))
            .collect();
        let body = StreamBody::new(stream::iter(frames));
        let mut reader = Reader::new(body, 5, engine.memory().clone());
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            let text = |body: Bytes| String::from_utf8(body.to_vec()).unwrap();
            lines.push(line.body.map_or_else(|_| "!".to_owned(), text));
        }
        assert_eq!(engine.memory().used(), 0);
        lines
    }

    #[tokio::test]
    async fn lines_end_at_newlines_wherever_frames_end() {
        for (frames, lines) in [
            (&["a\nb\n"][..], &["a", "b"][..]),
            (&["a", "\n", "b"], &["a", "b"]),
            (&["a", "b", "c\nd", "e\n"], &["abc", "de"]),
            (&["\n \r\n", "a\r\n\n"], &["a\r"]),
            (&[], &[]),
            (&["", "\n"], &[]),
        ] {
            assert_eq!(read(frames).await, lines, "{frames:?}");
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_large_is_skipped_and_the_rest_go_on() {
        assert_eq!(read(&["12345\n123456\nabc\n"]).await, ["12345", "!", "abc"]);
        assert_eq!(read(&["1234", "56", "7890", "1234567\na\n", "1234567"]).await, ["!", "a", "!"]);
    }
}
