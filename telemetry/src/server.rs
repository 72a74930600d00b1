//! A bounded HTTP/1.1 server: the accept loop of the admin port, and of the operator's contents port.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; the kernel's backlog holds those that wait.
    pub connections: usize,
    /// The longest that a connection may last after its handshake: its one request and the response.
    pub lifetime: Duration,
}

/// The pause after a failed accept, which is mostly a passing lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves `router` until the returned future is dropped: one request on each connection, so that one timeout covers its
/// head, its body and its response. `handshake` makes an accepted connection readable, as TLS does, or gives it up.
pub async fn serve<H, S>(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    handshake: impl Fn(TcpStream) -> H,
) where
    H: Future<Output = Option<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(bounds.connections));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let handshake = match listener.accept().await {
            Ok((stream, _)) => handshake(stream),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Some(stream) = handshake.await else { return };
            let mut http = http1::Builder::new();
            http.keep_alive(false);
            // A caller that breaks off or is too slow may ask again.
            let _ = timeout(bounds.lifetime, http.serve_connection(TokioIo::new(stream), service)).await;
        });
    }
}
