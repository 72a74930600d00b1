//! `type: Http`: streams a whole request to its guest, and the guest's response back.

use std::{sync::Arc, time::Instant};

use http_body_util::{BodyExt as _, Either};
use hyper::{
    HeaderMap, Method, Request, Uri,
    body::{Body as _, Incoming},
    header,
    header::{HeaderName, HeaderValue},
    http::{
        request::Parts,
        uri::{Authority, InvalidUri, PathAndQuery, Scheme},
    },
};
use samovar_runtime::{Admission, BrokenOff, CallError};

use crate::{
    desired::Key,
    server::{
        Server,
        body::{Answer, discard},
        problem::Problem,
        problem_type::ProblemType,
        routes::{Endpoint, Serving},
    },
};

/// The methods that guests may receive: all but `CONNECT`, which would make the connection a tunnel.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Hands a request to the guest of a revision, or of its successor. The guest's path begins at `start` of the request's
/// path.
pub(super) async fn exchange(
    server: &Server,
    serving: &Serving,
    endpoint: Arc<Endpoint>,
    head: Parts,
    start: usize,
    body: Incoming,
) -> Answer {
    let mut timer = CallTimer { endpoint, outcome: Ok(()), started: Instant::now() };
    let admitted = admit(server, serving, &timer.endpoint, &head, body.size_hint().lower()).await;
    let answered = match admitted {
        Ok(admission) => match forwarded(head, &serving.key, start) {
            Ok(head) => {
                let answer = admission.serve(Request::from_parts(head, body)).await;
                answer.map_err(Problem::from)
            }
            Err(problem) => Err(problem),
        },
        Err(problem) => {
            discard(&head, body).await;
            Err(problem)
        }
    };
    match answered {
        Ok(response) => response.map(|body| {
            let observe = move |BrokenOff(error): &BrokenOff| timer.fail(ProblemType::of(error));
            let observe: Box<dyn FnMut(&BrokenOff) + Send> = Box::new(observe);
            Either::Right(Either::Right(body.inspect_err(observe)))
        }),
        Err(problem) => {
            timer.fail(problem.kind);
            problem.answer()
        }
    }
}

async fn admit(
    server: &Server,
    serving: &Serving,
    endpoint: &Endpoint,
    head: &Parts,
    bytes: u64,
) -> Result<Admission, Problem> {
    if head.method == Method::CONNECT {
        return Err(Problem::method_not_allowed(METHODS));
    }
    match serving.runs.admit(&endpoint.function, bytes).await {
        // The revision was closed between the look-up and now: its successor answers.
        Err(CallError::Closed) => {}
        admitted => return Ok(admitted?),
    }
    let next = server.successor(&serving.key)?;
    let endpoint =
        next.handler().ok_or_else(|| Problem::not_ready("the plugin is no longer of type Http"))?;
    Ok(next.runs.admit(&endpoint.function, bytes).await?)
}

/// The request as its guest sees it: its own path, an authority in each version of HTTP, and no hop-by-hop fields.
fn forwarded(mut head: Parts, key: &Key, start: usize) -> Result<Parts, Problem> {
    drop_hop_by_hop(&mut head.headers);
    let has_authority = head.uri.authority().is_some() || head.headers.contains_key(header::HOST);
    if start == 0 && has_authority {
        return Ok(head);
    }
    let invalid = || Problem::new(ProblemType::BadArguments, "the request's path or host is invalid");
    let bad = |_: InvalidUri| invalid();
    let named = || head.headers.get(header::HOST).map(|host| host.as_bytes().try_into());
    let authority: Authority = match (head.uri.authority(), named()) {
        (Some(authority), _) => authority.clone(),
        (None, Some(named)) => named.map_err(bad)?,
        (None, None) => format!("{}.{}", key.plugin, key.namespace).try_into().map_err(bad)?,
    };
    let whole = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let own = &whole[start.min(whole.len())..];
    // A request for the plugin itself has the root as its path.
    let root = if own.starts_with('/') { "" } else { "/" };
    let path: PathAndQuery = format!("{root}{own}").try_into().map_err(bad)?;
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path);
    head.uri = uri.build().map_err(|_| invalid())?;
    Ok(head)
}

/// Drops the fields that `Connection` names as hop-by-hop: <https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1>. The
/// runtime drops those that are hop-by-hop by their own names.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let is_trailers = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"trailers");
    if headers.get(header::TE).is_some_and(|value| !is_trailers(value)) {
        headers.remove(header::TE);
    }
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    for name in named.collect::<Vec<HeaderName>>() {
        if name != header::TE {
            headers.remove(name);
        }
    }
}

/// Counts an exchange, with its outcome and duration, when it is dropped.
struct CallTimer {
    endpoint: Arc<Endpoint>,
    outcome: Result<(), ProblemType>,
    started: Instant,
}

impl CallTimer {
    /// A method, so that a closure which calls it captures the timer, not a copy of its outcome.
    fn fail(&mut self, problem_type: ProblemType) {
        self.outcome = Err(problem_type);
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        self.endpoint.metrics.answered(self.outcome, self.started.elapsed());
    }
}
