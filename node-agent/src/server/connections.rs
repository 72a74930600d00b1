//! The port for calls: HTTP/1.1 and HTTP/2 cleartext, directly on hyper.

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

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::server::{Server, dispatch::answer};

/// The most open connections; more wait to be accepted.
const CONNECTIONS: usize = 10_000;
/// The longest from a caller's connect to the end of its first request's head.
const FIRST_HEAD: Duration = Duration::from_secs(10);
/// The longest that an HTTP/1.1 connection may be idle, the next request's head included. Longer than callers' pools
/// commonly keep one, since a call that is sent while its connection closes is lost.
const IDLE: Duration = Duration::from_mins(2);
/// The most concurrent calls on one HTTP/2 connection.
const STREAMS: u32 = 250;
/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 32 << 10;

/// Serves until draining starts, then until the last call ends or `deadline` has passed.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener, deadline: Duration) {
    let mut draining = server.draining.subscribe();
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let builder = builder();
    loop {
        let next = async {
            // The semaphore is never closed: each connection gets a permit sooner or later.
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, accept(&listener).await)
        };
        let (permit, stream) = tokio::select! {
            next = next => next,
            _ = draining.wait_for(|draining| *draining) => break,
        };
        let begun = Arc::new(AtomicBool::new(false));
        let (shared, begins) = (Arc::clone(&server), Arc::clone(&begun));
        let service = service_fn(move |request| {
            begins.store(true, Ordering::Relaxed);
            let server = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&server, request).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let open = server.metrics.connections.clone();
        open.inc();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            // The error of a connection concerns only its caller. A connection without a request is closed, since it
            // holds a permit: hyper's own timeout starts only when the version of HTTP is known.
            let in_time = tokio::time::timeout(FIRST_HEAD, connection.as_mut()).await.is_ok();
            if !in_time && begun.load(Ordering::Relaxed) {
                let _ = connection.await;
            }
            open.dec();
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(deadline, graceful.shutdown()).await.is_err() {
        tracing::warn!("calls still ran after {} s of draining; they are aborted", deadline.as_secs());
    }
}

/// The settings of connections: every head, stream and wait is bounded.
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

/// Accepts the next connection. An error is a passing shortage, of file descriptors mostly.
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

/// Binds the port.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
