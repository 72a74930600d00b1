//! One call: its body in, its answer out. The hot path.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body as _, Incoming},
    header,
    header::HeaderValue,
};
use samovar_runtime::{Call, CallError, Format, Function, Timing};

use super::{Answer, Problem, Server, Slug};
use crate::routes::{Route, Serving};

const JSON: &str = "application/json";
const OCTET_STREAM: &str = "application/octet-stream";

impl Server {
    pub(super) async fn invoke(
        &self,
        namespace: &str,
        plugin: &str,
        function: &str,
        request: Request<Incoming>,
    ) -> Answer {
        let serving = match self.serving(namespace, plugin) {
            Ok(serving) => serving,
            Err(problem) => return problem.answer(),
        };
        let Some(endpoint) = serving.endpoint(function) else {
            return Problem::no_such_function(namespace, plugin, function).answer();
        };
        let started = Instant::now();
        let result = self.call(&serving, &endpoint.function, request).await;
        endpoint
            .metrics
            .answered(result.as_ref().map(drop).map_err(|problem| problem.slug), started.elapsed());
        result.unwrap_or_else(Problem::answer)
    }

    fn serving(&self, namespace: &str, plugin: &str) -> Result<Arc<Serving>, Problem> {
        match self.routes.load().get(namespace, plugin) {
            Some(Route::Serving(serving)) => Ok(Arc::clone(serving)),
            Some(Route::NotReady(why)) => Err(Problem::not_ready(why)),
            None => Err(Problem::no_such_plugin(namespace, plugin)),
        }
    }

    async fn call(
        &self,
        serving: &Serving,
        function: &Function,
        request: Request<Incoming>,
    ) -> Result<Answer, Problem> {
        let (parts, body) = request.into_parts();
        let format = format(&parts.headers, function)?;
        let answer_bytes = parts.headers.get(header::ACCEPT).is_some_and(|accept| accept == OCTET_STREAM);
        let body = read(body, function).await?;
        let call = Call { body, format, answer_bytes };
        let answer = match serving.runs.call(function, call.clone()).await {
            // The revision was let go between the look at the table and the call: the next one answers.
            Err(CallError::Closed) => {
                let next = self.serving(&serving.namespace, &serving.plugin)?;
                let endpoint = next.endpoint(function.name()).ok_or_else(|| {
                    Problem::no_such_function(&serving.namespace, &serving.plugin, function.name())
                })?;
                next.runs.call(&endpoint.function, call).await
            }
            answer => answer,
        }?;
        let content_type = match answer.format {
            Format::Json => HeaderValue::from_static(JSON),
            Format::Bytes => HeaderValue::from_static(OCTET_STREAM),
        };
        let mut response = Response::new(Full::new(answer.body));
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        if let Some(timing) = server_timing(answer.timing) {
            response.headers_mut().insert("server-timing", timing);
        }
        Ok(response)
    }
}

/// How the body is to be read, by its content type.
fn format(headers: &HeaderMap, function: &Function) -> Result<Format, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(JSON) {
        return Ok(Format::Json);
    }
    if essence.eq_ignore_ascii_case(OCTET_STREAM) && function.takes_bytes() {
        return Ok(Format::Bytes);
    }
    // What `curl --data` sends unless it is told otherwise; its body is JSON all the same, or fails as such.
    if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(Format::Json);
    }
    let takes = if function.takes_bytes() { "application/json or application/octet-stream" } else { JSON };
    Err(Problem::new(
        Slug::UnsupportedMediaType,
        format_args!("function `{}` takes {takes}", function.name()),
    ))
}

/// The whole body, within the function's limits of bytes and time.
async fn read(body: Incoming, function: &Function) -> Result<Bytes, Problem> {
    let limit = function.request_bytes();
    let too_large = || Problem::from(CallError::TooLarge { limit });
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(function.timeout(), limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(Slug::BadArguments, "the body broke off")),
        Err(_) => {
            Err(Problem::new(Slug::Timeout, "the body did not arrive within the function's time limit"))
        }
    }
}

/// Where the time went, in milliseconds: <https://www.w3.org/TR/server-timing/>.
fn server_timing(Timing { queue, instantiate, run }: Timing) -> Option<HeaderValue> {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mut text = String::with_capacity(64);
    write!(
        text,
        "queue;dur={:.3}, instantiate;dur={:.3}, run;dur={:.3}",
        millis(queue),
        millis(instantiate),
        millis(run)
    )
    .ok()?;
    HeaderValue::try_from(text).ok()
}
