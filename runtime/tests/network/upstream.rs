//! Hosts on loopback that count their connections.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinHandle,
};

/// Accepts connections until it is dropped.
pub struct Upstream {
    pub port: u16,
    pub connections: watch::Receiver<usize>,
    serving: Vec<JoinHandle<()>>,
}

impl Upstream {
    /// Listens on the same port of all these addresses, and serves each connection with `serve`.
    pub async fn start<S, F>(addresses: &[&str], serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (listeners, port) = listen(addresses).await;
        let (count, connections) = watch::channel(0);
        let (count, serve) = (Arc::new(count), Arc::new(serve));
        let serving = listeners.into_iter().map(|listener| {
            let (count, serve) = (Arc::clone(&count), Arc::clone(&serve));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.send_modify(|count| *count += 1);
                    tokio::spawn(serve(stream));
                }
            })
        });
        Self { port, connections, serving: serving.collect() }
    }

    pub fn count(&self) -> usize {
        *self.connections.borrow()
    }

    /// Waits until there were `count` connections.
    pub async fn reached_by(&self, count: usize) {
        let mut connections = self.connections.clone();
        let waiting = connections.wait_for(|&now| now >= count);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("too few connected").unwrap();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

/// Binds a port that is free on all these addresses.
async fn listen(addresses: &[&str]) -> (Vec<TcpListener>, u16) {
    for _ in 0..50 {
        let mut listeners = vec![TcpListener::bind((addresses[0], 0)).await.unwrap()];
        let port = listeners[0].local_addr().unwrap().port();
        for address in &addresses[1..] {
            match TcpListener::bind((*address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => break,
            }
        }
        if listeners.len() == addresses.len() {
            return (listeners, port);
        }
    }
    panic!("no port is free on all of {addresses:?}");
}

/// Reads the head of a request.
pub async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Responds to a request with its own head.
pub async fn echo(mut stream: TcpStream) {
    let head = head(&mut stream).await;
    answer(stream, &head).await;
}

pub async fn answer(mut stream: TcpStream, body: &str) {
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(response.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Sends back what it receives, in upper case.
pub async fn shout(mut stream: TcpStream) {
    let mut bytes = [0; 64];
    if let Ok(length) = stream.read(&mut bytes).await {
        bytes.make_ascii_uppercase();
        let _ = stream.write_all(&bytes[..length]).await;
    }
}

/// The same for datagrams, which it counts.
pub async fn shout_datagrams(address: IpAddr) -> (SocketAddr, watch::Receiver<usize>, JoinHandle<()>) {
    let socket = UdpSocket::bind((address, 0)).await.unwrap();
    let (count, counted) = watch::channel(0);
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
            count.send_modify(|count| *count += 1);
            bytes.make_ascii_uppercase();
            let _ = socket.send_to(&bytes[..length], client).await;
        }
    });
    (address, counted, serving)
}
