//! A host on 127.0.0.1, for guests to call.

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Accepts connections until it is dropped.
pub struct Upstream {
    /// Its `host:port`.
    pub authority: String,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Serves each connection in a task of its own, which ends when the other side disconnects.
    pub async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let authority = listener.local_addr()?.to_string();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Ok(Self { authority, accepting })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads a request without a body, and responds with this one.
pub async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, body: &str) -> Result<()> {
    let _ = stream.read(&mut [0; 1024]).await?;
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(response.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}
