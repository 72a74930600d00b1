//! The port that takes calls: HTTP/1.1 and HTTP/2 cleartext, straight on hyper.

mod describe;
mod invoke;
mod problem;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use samovar_crds::names;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

pub(crate) use problem::{Problem, Slug};

use crate::{
    metrics::Metrics,
    routes::{Route, RouteTable},
};

/// Connections that are open at once; more wait to be accepted.
const CONNECTIONS: usize = 10_000;
/// How long a caller may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at once on one HTTP/2 connection.
const STREAMS: u32 = 250;
/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 32 << 10;

/// What every connection shares.
pub(crate) struct Server {
    pub(crate) routes: ArcSwap<RouteTable>,
    pub(crate) metrics: Metrics,
    pub(crate) draining: watch::Sender<bool>,
}

type Answer = Response<Full<Bytes>>;

impl Server {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { routes: ArcSwap::default(), metrics, draining: watch::Sender::new(false) })
    }

    /// Serves until draining starts, then until the last call ends or `deadline` has passed.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, deadline: Duration) {
        let mut draining = self.draining.subscribe();
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .pipeline_flush(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(30));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = tokio::select! {
                accepted = accept(&listener) => accepted,
                _ = draining.wait_for(|draining| *draining) => break,
            };
            let server = Arc::clone(&self);
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            let open = self.metrics.connections.clone();
            open.inc();
            tokio::spawn(async move {
                // A caller that breaks off is its own business.
                let _ = connection.await;
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

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let routes = self.routes.load();
        let target = match Target::of(&request, &routes) {
            Ok(target) => target,
            Err(problem) => return problem.answer(),
        };
        match target {
            Target::Describe(route) => match (request.method(), route) {
                (&Method::GET | &Method::HEAD, Route::Serving(serving)) => describe::describe(serving),
                (&Method::GET | &Method::HEAD, Route::NotReady(why)) => Problem::not_ready(why).answer(),
                _ => Problem::method_not_allowed("GET").answer(),
            },
            Target::Function { namespace, plugin, function } => {
                if request.method() != Method::POST {
                    return Problem::method_not_allowed("POST").answer();
                }
                let (namespace, plugin, function) =
                    (namespace.to_owned(), plugin.to_owned(), function.to_owned());
                drop(routes);
                self.invoke(&namespace, &plugin, &function, request).await
            }
        }
    }
}

/// What a request is for.
enum Target<'a> {
    /// The plugin itself.
    Describe(&'a Route),
    /// One of its functions.
    Function { namespace: &'a str, plugin: &'a str, function: &'a str },
}

impl<'a> Target<'a> {
    /// By host where the host names a plugin, else by path.
    fn of(request: &'a Request<Incoming>, routes: &'a RouteTable) -> Result<Self, Problem> {
        let host = request.uri().host().or_else(|| request.headers().get(header::HOST)?.to_str().ok());
        let by_host = host
            .and_then(names::plugin_of_host)
            .and_then(|(plugin, namespace)| Some((namespace, plugin, routes.get(namespace, plugin)?)));
        let path = request.uri().path();
        let (namespace, plugin, route, rest) = if let Some((namespace, plugin, route)) = by_host {
            (namespace, plugin, route, path.strip_prefix('/').unwrap_or(path))
        } else {
            let mut parts = path.strip_prefix("/v1/").ok_or_else(Problem::no_such_path)?.splitn(3, '/');
            let (Some(namespace), Some(plugin)) = (parts.next(), parts.next()) else {
                return Err(Problem::no_such_path());
            };
            let route =
                routes.get(namespace, plugin).ok_or_else(|| Problem::no_such_plugin(namespace, plugin))?;
            (namespace, plugin, route, parts.next().unwrap_or_default())
        };
        match rest {
            "" => Ok(Self::Describe(route)),
            function => Ok(Self::Function { namespace, plugin, function }),
        }
    }
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
