//! A hostile upstream: the path of the request selects its behaviour.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::interval,
};

/// Serves one connection, until the agent closes it.
pub async fn serve(mut stream: TcpStream) -> Result<()> {
    let mut head = vec![0; 4096];
    let length = stream.read(&mut head).await?;
    let head = String::from_utf8_lossy(&head[..length]);
    match head.split(' ').nth(1).unwrap_or_default() {
        "/drips-its-head" => drip(&mut stream, "HTTP/1.1 200 OK\r\nx: ", "x").await,
        "/drips-its-body" => drip(&mut stream, "HTTP/1.1 200 OK\r\n\r\n", "x").await,
        "/headers-without-end" => pour(&mut stream, "HTTP/1.1 200 OK\r\n", "x-flood: 0123456789\r\n").await,
        "/one-header-without-end" => pour(&mut stream, "HTTP/1.1 200 OK\r\nx: ", "x").await,
        "/hints-without-end" => pour(&mut stream, "", "HTTP/1.1 103 Early Hints\r\n\r\n").await,
        "/body-without-end" => pour(&mut stream, "HTTP/1.1 200 OK\r\n\r\n", "x").await,
        "/chunks-without-end" => {
            pour(&mut stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\nx\r\n").await
        }
        "/half-a-body" => send(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await,
        "/no-http" => send(&mut stream, "\0\u{1}\u{2} what?\r\n\r\n").await,
        "/redirects-to-itself" => {
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
            let location = format!("http://{host}/redirects-to-itself");
            send(
                &mut stream,
                &format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"),
            )
            .await
        }
        "/hangs-up" => Ok(()),
        // Any other path is never answered.
        _ => drip(&mut stream, "", "").await,
    }
}

async fn send(stream: &mut TcpStream, text: &str) -> Result<()> {
    Ok(stream.write_all(text.as_bytes()).await?)
}

/// Sends `first`, then `more` every 5 ms, until the client disconnects.
async fn drip(stream: &mut TcpStream, first: &str, more: &str) -> Result<()> {
    send(stream, first).await?;
    let mut pace = interval(Duration::from_millis(5));
    loop {
        let mut nothing = [0];
        tokio::select! {
            _ = pace.tick() => send(stream, more).await?,
            read = stream.read(&mut nothing) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// Sends `first`, then `more` as fast as the client reads, until it disconnects.
async fn pour(stream: &mut TcpStream, first: &str, more: &str) -> Result<()> {
    send(stream, first).await?;
    let more = more.repeat(4096);
    loop {
        send(stream, &more).await?;
    }
}
