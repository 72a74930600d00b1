//! The admin port: `/healthz`, `/readyz` and `/metrics`, on a thread and a runtime of their own.

use std::{
    future::ready,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

use crate::server::{self, Bounds};

/// The state that the admin port shows. Cheap to clone.
#[derive(Clone)]
pub struct Ops {
    inner: Arc<Inner>,
}

struct Inner {
    ready: AtomicBool,
    registry: Registry,
}

/// The admin port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; choose another address with --ops-listen")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// The content type of the OpenMetrics text format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// At most 512 connections of 5 s each.
const BOUNDS: Bounds = Bounds { connections: 512, lifetime: Duration::from_secs(5) };

impl Ops {
    /// Starts out not ready. `registry` holds all metrics of this process.
    pub fn new(registry: Registry) -> Self {
        Self { inner: Arc::new(Inner { ready: AtomicBool::new(false), registry }) }
    }

    /// Sets the response of `/readyz`.
    pub fn set_ready(&self, ready: bool) {
        self.inner.ready.store(ready, Ordering::Release);
    }

    /// Serves until the process ends, on a thread and a runtime of its own, so that neither guests nor the control
    /// plane can stall it. Returns the bound address.
    pub fn serve(&self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let refuse = |source| ListenError { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(refuse)?;
        listener.set_nonblocking(true).map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refuse)?;
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.clone());
        let serve = async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => server::serve(listener, router, BOUNDS, |stream| ready(Some(stream))).await,
                Err(error) => tracing::error!(%error, "failed to start the admin server"),
            }
        };
        let named = thread::Builder::new().name("ops".to_owned());
        named.spawn(move || runtime.block_on(serve)).map_err(refuse)?;
        Ok(bound)
    }
}

async fn readyz(State(ops): State<Ops>) -> (StatusCode, &'static str) {
    if ops.inner.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &ops.inner.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: ops\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn health_readiness_and_metrics_are_served() {
        let mut registry = Registry::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("calls", "Calls", counter.clone());
        counter.inc();
        let ops = Ops::new(registry);
        let address = ops.serve(([127, 0, 0, 1], 0).into()).unwrap();
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 503"));
        ops.set_ready(true);
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").contains("calls_total 1\n"));
        assert!(ops.serve(address).is_err());
    }

    #[test]
    fn silent_connections_stall_nobody_and_are_closed() {
        let address = Ops::new(Registry::default()).serve(([127, 0, 0, 1], 0).into()).unwrap();
        let mut silent: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        let slow = &mut silent[0];
        slow.set_read_timeout(Some(BOUNDS.lifetime * 4)).unwrap();
        assert_eq!(slow.read(&mut [0]).unwrap(), 0);
    }
}
