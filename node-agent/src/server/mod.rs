//! The port that takes calls: HTTP/1.1 and HTTP/2 cleartext, straight on hyper.

pub(crate) mod gauges;
pub(crate) mod metrics;
pub(crate) mod problem_type;
pub(crate) mod routes;

mod batch;
mod describe;
mod http;
mod invoke;
mod problem;
mod target;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header,
    http::request::Parts,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use samovar_runtime::MemoryBudget;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use describe::describe;
pub(crate) use problem::Problem;
use target::host;
pub(crate) use target::target;

use self::{
    metrics::Metrics,
    routes::{Endpoint, Route, RouteTable, Serving},
};

/// Connections that are open at once; more wait to be accepted.
const CONNECTIONS: usize = 10_000;
/// How long a caller may take from connecting to the end of its first request's head.
const FIRST_HEAD: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 connection may be idle, the next request's head included. Longer than callers' pools
/// commonly keep one, since a call that crosses its connection's end on the way is lost.
const IDLE: Duration = Duration::from_mins(2);
/// Calls at once on one HTTP/2 connection.
const STREAMS: u32 = 250;
/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 32 << 10;

/// What is read and thrown away of a body whose call has ended already.
const DISCARDED_BYTES: usize = 16 << 20;
/// How long that may take.
const DISCARD: Duration = Duration::from_secs(1);

/// What every connection shares.
pub(crate) struct Server {
    pub(crate) routes: ArcSwap<RouteTable>,
    pub(crate) metrics: Metrics,
    pub(crate) memory: MemoryBudget,
    pub(crate) draining: watch::Sender<bool>,
}

type Answer = Response<Either<Full<Bytes>, Either<batch::Lines, http::MeasuredBody>>>;

/// An answer that is there as a whole.
fn full(body: impl Into<Bytes>) -> Answer {
    Response::new(Either::Left(Full::new(body.into())))
}

impl Server {
    pub(crate) fn new(metrics: Metrics, memory: MemoryBudget) -> Arc<Self> {
        Arc::new(Self { routes: ArcSwap::default(), metrics, memory, draining: watch::Sender::new(false) })
    }

    /// Serves until draining starts, then until the last call ends or `deadline` has passed.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, deadline: Duration) {
        let mut draining = self.draining.subscribe();
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let builder = builder();
        loop {
            let next = async {
                // Never closed: there is a place for everyone, sooner or later.
                let place = Arc::clone(&places).acquire_owned().await;
                (place, accept(&listener).await)
            };
            let (place, stream) = tokio::select! {
                next = next => next,
                _ = draining.wait_for(|draining| *draining) => break,
            };
            let begun = Arc::new(AtomicBool::new(false));
            let (server, begins) = (Arc::clone(&self), Arc::clone(&begun));
            let service = service_fn(move |request| {
                begins.store(true, Ordering::Relaxed);
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            let open = self.metrics.connections.clone();
            open.inc();
            tokio::spawn(async move {
                let mut connection = pin!(connection);
                // A caller that breaks off is its own business. One that connects and sends no request holds a
                // place: hyper's own timeout starts only when the version of HTTP is known.
                let in_time = tokio::time::timeout(FIRST_HEAD, connection.as_mut()).await.is_ok();
                if !in_time && begun.load(Ordering::Relaxed) {
                    let _ = connection.await;
                }
                open.dec();
                drop(place);
            });
        }
        drop(listener);
        if tokio::time::timeout(deadline, graceful.shutdown()).await.is_err() {
            tracing::warn!(
                "calls were still running after {} s of draining; they are cut off",
                deadline.as_secs()
            );
        }
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let (head, mut body) = request.into_parts();
        let answer = match self.dispatch(&head) {
            Dispatch::Function(serving, endpoint) if batch::is_batch(&head.headers) => {
                return batch::answer(Arc::clone(self), serving, endpoint, body);
            }
            Dispatch::Function(serving, endpoint) => {
                self.invoke(&serving, &endpoint, &head.headers, &mut body).await
            }
            Dispatch::Guest(serving, endpoint, start) => {
                return self.exchange(&serving, endpoint, head, start, body).await;
            }
            Dispatch::Nothing(answer) => *answer,
        };
        if !answer.status().is_success() && answer.status() != StatusCode::GATEWAY_TIMEOUT {
            discard(&head, body).await;
        }
        answer
    }

    /// What a request calls, or the answer to one that calls nothing.
    fn dispatch(&self, head: &Parts) -> Dispatch {
        let routes = self.routes.load();
        let problem = |problem: Problem| Dispatch::Nothing(Box::new(problem.answer()));
        let target = match target(host(head), head.uri.path(), &routes) {
            Ok(target) => target,
            Err(why) => return problem(why),
        };
        let serving = match target.route {
            Route::Serving(serving) => serving,
            Route::NotReady(why) => return problem(Problem::not_ready(why)),
        };
        if let Some(endpoint) = serving.handler() {
            return Dispatch::Guest(Arc::clone(serving), Arc::clone(endpoint), target.start);
        }
        match (target.name, &head.method) {
            (None, &Method::GET | &Method::HEAD) => Dispatch::Nothing(Box::new(describe(serving))),
            (None, _) => problem(Problem::method_not_allowed("GET")),
            (Some(name), method) => {
                let Some(endpoint) = serving.endpoint(name) else {
                    return problem(Problem::no_such_function(&serving.key, name));
                };
                if method != Method::POST {
                    return problem(Problem::method_not_allowed("POST"));
                }
                Dispatch::Function(Arc::clone(serving), Arc::clone(endpoint))
            }
        }
    }
}

/// What a request calls.
enum Dispatch {
    /// A function.
    Function(Arc<Serving>, Arc<Endpoint>),
    /// A guest that takes whole requests, and where its own part of the path begins.
    Guest(Arc<Serving>, Arc<Endpoint>, usize),
    /// Nothing: this is the answer.
    Nothing(Box<Answer>),
}

/// Reads on for a while and throws away, so that a caller who is still sending when the answer is known gets to
/// read it: a connection that is closed with bytes unread is reset, and the answer with it.
async fn discard(head: &Parts, mut body: Incoming) {
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

/// How connections are served: every head, stream and wait is bounded.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

/// The next connection. An error is a passing shortage, of file descriptors mostly.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Opens the port.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
