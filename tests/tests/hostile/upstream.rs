//! A host that guests may call, and that answers as no host should: what it does is the request's path.

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
        "/half-a-body" => say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await,
        "/no-http" => say(&mut stream, "\0\u{1}\u{2} what?\r\n\r\n").await,
        "/redirects-to-itself" => {
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
            let location = format!("http://{host}/redirects-to-itself");
            say(
                &mut stream,
                &format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"),
            )
            .await
        }
        "/hangs-up" => Ok(()),
        // All others are never answered.
        _ => drip(&mut stream, "", "").await,
    }
}

async fn say(stream: &mut TcpStream, text: &str) -> Result<()> {
    Ok(stream.write_all(text.as_bytes()).await?)
}

/// Says one thing, and then another a little at a time for as long as anybody listens.
async fn drip(stream: &mut TcpStream, first: &str, more: &str) -> Result<()> {
    say(stream, first).await?;
    let mut pace = interval(Duration::from_millis(5));
    loop {
        let mut nothing = [0];
        tokio::select! {
            _ = pace.tick() => say(stream, more).await?,
            read = stream.read(&mut nothing) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// Says one thing, and then another as fast as it is taken, for as long as anybody takes it.
async fn pour(stream: &mut TcpStream, first: &str, more: &str) -> Result<()> {
    say(stream, first).await?;
    let more = more.repeat(4096);
    loop {
        say(stream, &more).await?;
    }
}
