//! Invocation: reads the body of one call, runs it, renders its answer. The hot path.

use std::{fmt::Write as _, time::Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap,
    body::{Body as _, Incoming},
    header,
    header::HeaderValue,
};
use samovar_runtime::{Abi, Call, CallError, Format, Function, Reservation, Timing};

use crate::server::{
    Server,
    body::{Answer, full},
    problem::Problem,
    problem_type::ProblemType,
    routes::{Endpoint, Serving},
};

const JSON: &str = "application/json";
const OCTET_STREAM: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

/// Runs one call, counts it, and answers it.
pub(super) async fn invoke(
    server: &Server,
    serving: &Serving,
    endpoint: &Endpoint,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Answer {
    let started = Instant::now();
    let result = call(server, serving, &endpoint.function, headers, body).await;
    endpoint.metrics.answered(result.as_ref().map(drop).map_err(|problem| problem.kind), started.elapsed());
    result.unwrap_or_else(Problem::answer)
}

async fn call(
    server: &Server,
    serving: &Serving,
    function: &Function,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<Answer, Problem> {
    let format = format(headers, function)?;
    let answer_bytes = wants_bytes(headers);
    // Released when the call ends: until then the body is in memory.
    let held = server.memory.reservation();
    let body = read(body, function, &held).await?;
    let call = Call { body, format, answer_bytes };
    let answer = run(server, serving, function, call).await?;
    let content_type = match answer.format {
        Format::Json => HeaderValue::from_static(JSON),
        Format::Bytes => HeaderValue::from_static(OCTET_STREAM),
        Format::Text => HeaderValue::from_static(TEXT),
    };
    let mut response = full(answer.body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if let Some(timing) = server_timing(answer.timing) {
        response.headers_mut().insert("server-timing", timing);
    }
    if let Some(fuel) = answer.fuel {
        response.headers_mut().insert("samovar-fuel", HeaderValue::from(fuel));
    }
    Ok(response)
}

/// Runs one call on a revision, or on its successor.
pub(super) async fn run(
    server: &Server,
    serving: &Serving,
    function: &Function,
    call: Call,
) -> Result<samovar_runtime::Answer, Problem> {
    match serving.runs.call(function, call.clone()).await {
        // The revision was closed between the look-up and the call: its successor answers.
        Err(CallError::Closed) => {}
        answer => return Ok(answer?),
    }
    let (next, name) = (server.successor(&serving.key)?, function.name());
    let endpoint = next.endpoint(name).ok_or_else(|| Problem::no_such_function(&next.key, name))?;
    Ok(next.runs.call(&endpoint.function, call).await?)
}

/// A media type without its parameters.
pub(super) fn essence(media: &str) -> &str {
    media.split(';').next().unwrap_or_default().trim()
}

/// True if the caller prefers bytes to JSON: `Accept` names them first.
fn wants_bytes(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .map(essence)
        .find(|media| [JSON, OCTET_STREAM].iter().any(|known| media.eq_ignore_ascii_case(known)))
        .is_some_and(|media| media.eq_ignore_ascii_case(OCTET_STREAM))
}

/// The format of the body, by its content type.
fn format(headers: &HeaderMap, function: &Function) -> Result<Format, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
    let essence = essence(value.to_str().unwrap_or_default());
    if essence.eq_ignore_ascii_case(JSON) {
        return Ok(Format::Json);
    }
    if essence.eq_ignore_ascii_case(OCTET_STREAM) && function.takes_bytes() {
        return Ok(Format::Bytes);
    }
    // The default of `curl --data`; the body is JSON all the same, or fails as such.
    if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(Format::Json);
    }
    // A program reads any media type.
    if function.abi() == Some(Abi::Command) {
        let is_text = essence.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
        return Ok(if is_text { Format::Text } else { Format::Bytes });
    }
    let takes = if function.takes_bytes() { "application/json or application/octet-stream" } else { JSON };
    Err(Problem::new(
        ProblemType::UnsupportedMediaType,
        format_args!("function `{}` takes {takes}", function.name()),
    ))
}

/// Reads the whole body, within the function's limits of bytes and time; `held` grows with it.
async fn read(body: &mut Incoming, function: &Function, held: &Reservation) -> Result<Bytes, Problem> {
    let limit = function.request_bytes();
    let too_large = || Problem::from(CallError::TooLarge { limit });
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let whole = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|_| Problem::new(ProblemType::BadArguments, "the request body is incomplete"))?;
            let Ok(data) = frame.into_data() else { continue };
            if (whole.len() + data.len()) as u64 > limit {
                return Err(too_large());
            }
            held.try_grow(data.len() as u64).map_err(CallError::from)?;
            if whole.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    };
    tokio::time::timeout(function.timeout(), whole).await.unwrap_or_else(|_| {
        Err(Problem::new(ProblemType::Timeout, "the body did not arrive within the function's time limit"))
    })
}

/// The durations of the phases of a call, in milliseconds: <https://www.w3.org/TR/server-timing/>.
fn server_timing(Timing { queue, instantiate, run }: Timing) -> Option<HeaderValue> {
    let mut text = String::with_capacity(64);
    for (separator, name, took) in
        [("", "queue", queue), (", ", "instantiate", instantiate), (", ", "run", run)]
    {
        // As integers: formatting three floats took 1 % of a short call.
        let (millis, micros) = (took.as_micros() / 1000, took.subsec_micros() % 1000);
        write!(text, "{separator}{name};dur={millis}.{micros:03}").ok()?;
    }
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bytes_are_preferred_if_accept_names_them_before_json() {
        for (accept, bytes) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/json"), false),
            (Some("application/octet-stream"), true),
            (Some("Application/Octet-Stream; q=0.9, */*"), true),
            (Some("text/html, application/octet-stream, application/json"), true),
            (Some("application/json, application/octet-stream;q=0.5"), false),
        ] {
            let headers = accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept)));
            assert_eq!(wants_bytes(&headers.into_iter().collect()), bytes, "{accept:?}");
        }
    }

    #[test]
    fn server_timing_is_in_milliseconds() {
        let timing = Timing {
            queue: Duration::ZERO,
            instantiate: Duration::from_micros(7),
            run: Duration::from_millis(1500),
        };
        assert_eq!(
            server_timing(timing).unwrap(),
            "queue;dur=0.000, instantiate;dur=0.007, run;dur=1500.000"
        );
    }
}
