//! Requests to allowed hosts, and to hostile ones.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use samovar_runtime::{CallError, NetworkGrant, NetworkOptions, Plugin};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use crate::{
    Bed, ask, bytes, fetch,
    names::{NameServer, Records},
    support::call,
    text,
    upstream::{self, Upstream},
};

async fn bed() -> Bed {
    Bed::new(NetworkOptions::default()).await
}

async fn reaching(bed: &Bed, upstream: &Upstream) -> (Plugin, String) {
    let authority = format!("127.0.0.1:{}", upstream.port);
    (bed.allowing(&[&authority]).await, authority)
}

#[tokio::test]
async fn an_allowed_host_gets_the_checked_name_in_its_host_field() {
    let names = [("api.example", Records::Addresses(vec![Ipv4Addr::LOCALHOST.into()]))];
    let names = NameServer::start(&names).await;
    let bed =
        Bed::new(NetworkOptions { name_servers: vec![names.address], ..NetworkOptions::default() }).await;
    let upstream = Upstream::start(&["127.0.0.1"], upstream::echo).await;
    let port = upstream.port;
    let plugin = bed.allowing(&[&format!("API.example.:{port}"), &format!("127.0.0.0/8:{port}")]).await;
    for host in ["api.example", "API.EXAMPLE."] {
        let response = fetch(&plugin, &format!("{host}:{port}")).await.unwrap();
        let head = text(&response["body"]);
        assert_eq!(response["status"], 200);
        assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
        assert_eq!(head.matches("host:").count(), 1, "{head}");
        assert!(head.contains(&format!("host: api.example:{port}\r\n")), "{head}");
    }
    // The default port is not the one that is allowed.
    let why = fetch(&plugin, "api.example").await.unwrap_err();
    assert!(why.contains("HttpRequestDenied"), "{why}");
}

#[tokio::test]
async fn a_body_is_sent_and_connect_is_refused() {
    let upstream = Upstream::start(&["127.0.0.1"], |mut stream| async move {
        upstream::head(&mut stream).await;
        let (mut body, mut part) = (Vec::new(), [0; 4096]);
        while !body.ends_with(b"\r\n0\r\n\r\n") {
            match stream.read(&mut part).await {
                Ok(length) if length > 0 => body.extend_from_slice(&part[..length]),
                _ => return,
            }
        }
        let count = String::from_utf8_lossy(&body).matches('x').count();
        upstream::answer(stream, &count.to_string()).await;
    })
    .await;
    let bed = bed().await;
    let (plugin, authority) = reaching(&bed, &upstream).await;
    let body = "x".repeat(300_000);
    let response = ask(&plugin, "send", json!(["POST", authority, bytes(&body)])).await.unwrap();
    assert_eq!(text(&response["body"]), "300000");
    let why = ask(&plugin, "send", json!(["CONNECT", authority, ""])).await.unwrap_err();
    assert!(why.contains("HttpRequestMethodInvalid"), "{why}");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_request_over_https_never_falls_back_to_plain_text() {
    let upstream = Upstream::start(&["127.0.0.1"], |stream| upstream::answer(stream, "no TLS")).await;
    let bed = bed().await;
    let (plugin, authority) = reaching(&bed, &upstream).await;
    let why = ask(&plugin, "fetch", json!(["https", authority, "/"])).await.unwrap_err();
    assert!(why.contains("TlsProtocolError"), "{why}");
}

/// Writes `part` again and again, until the client disconnects.
async fn without_end(mut stream: TcpStream, start: &str, part: &[u8], pause: Duration) {
    upstream::head(&mut stream).await;
    let _ = stream.write_all(start.as_bytes()).await;
    while stream.write_all(part).await.is_ok() {
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test]
async fn a_response_without_end_ends_at_the_limit() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
    let upstream = Upstream::start(&["127.0.0.1"], move |stream| async move {
        without_end(stream, head, &[b'x'; 8 << 10], Duration::ZERO).await;
    })
    .await;
    let bed = bed().await;
    let (plugin, authority) = reaching(&bed, &upstream).await;
    let why = fetch(&plugin, &authority).await.unwrap_err();
    assert!(why.contains("HTTP response body size exceeds limit"), "{why}");
}

#[tokio::test]
async fn a_response_with_a_content_length_over_the_limit_is_refused() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
    let upstream = Upstream::start(&["127.0.0.1"], move |stream| async move {
        without_end(stream, head, b"x", Duration::from_millis(10)).await;
    })
    .await;
    let bed = bed().await;
    let (plugin, authority) = reaching(&bed, &upstream).await;
    let why = fetch(&plugin, &authority).await.unwrap_err();
    assert!(why.contains("HttpResponseBodySize"), "{why}");
}

#[tokio::test]
async fn a_flood_of_fields_ends_at_the_limit_in_many_or_in_one() {
    for part in [&b"x-flood: 1\r\n"[..], &[b'x'; 4096]] {
        let upstream = Upstream::start(&["127.0.0.1"], move |stream| async move {
            without_end(stream, "HTTP/1.1 200 OK\r\nx-first: ", part, Duration::ZERO).await;
        })
        .await;
        let bed = bed().await;
        let (plugin, authority) = reaching(&bed, &upstream).await;
        let why = fetch(&plugin, &authority).await.unwrap_err();
        assert!(why.contains("HttpResponseHeaderSectionSize"), "{why}");
    }
}

#[tokio::test]
async fn a_host_that_trickles_ends_at_the_guests_own_timeout() {
    for head in ["HTTP/1.1 200 OK\r\nx-slow: ", ""] {
        let upstream = Upstream::start(&["127.0.0.1"], move |stream| async move {
            without_end(stream, head, b"x", Duration::from_millis(20)).await;
        })
        .await;
        let bed = bed().await;
        let (plugin, authority) = reaching(&bed, &upstream).await;
        let started = Instant::now();
        let why = ask(&plugin, "fetch-within", json!([authority, 300])).await.unwrap_err();
        assert!(why.contains("ConnectionReadTimeout") || why.contains("HttpProtocolError"), "{why}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_body_that_stalls_ends_at_the_guests_own_timeout() {
    let upstream = Upstream::start(&["127.0.0.1"], |mut stream| async move {
        upstream::head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        let _ = stream.read_u8().await;
    })
    .await;
    let bed = bed().await;
    let (plugin, authority) = reaching(&bed, &upstream).await;
    let why = ask(&plugin, "fetch-within", json!([authority, 300])).await.unwrap_err();
    assert!(why.contains("connection read timeout"), "{why}");
}

/// A host that responds on a signal, and counts the connections that have closed.
struct Held {
    upstream: Upstream,
    answer: watch::Sender<bool>,
    gone: watch::Receiver<usize>,
}

async fn held() -> Held {
    let (answer, signal) = watch::channel(false);
    let (went, gone) = watch::channel(0);
    let went = Arc::new(went);
    let upstream = Upstream::start(&["127.0.0.1"], move |mut stream| {
        let (mut signal, went) = (signal.clone(), Arc::clone(&went));
        async move {
            upstream::head(&mut stream).await;
            let gone = tokio::select! {
                signal = signal.wait_for(|&signal| signal) => signal.is_err(),
                _ = stream.read_u8() => true,
            };
            if !gone {
                upstream::answer(stream, "at last").await;
            }
            went.send_modify(|count| *count += 1);
        }
    })
    .await;
    Held { upstream, answer, gone }
}

async fn storm(plugin: Plugin, authority: String, count: u32) -> (u64, Vec<Value>) {
    let answer = ask(&plugin, "storm", json!([authority, count])).await.unwrap();
    (answer[0].as_u64().unwrap(), answer[1].as_array().unwrap().clone())
}

#[tokio::test]
async fn concurrent_requests_are_limited_for_each_call_and_plugin() {
    let Held { upstream, answer, .. } = held().await;
    let bed = bed().await;
    let (plugin, authority) = reaching(&bed, &upstream).await;
    let before = bed.node.used();
    let one = tokio::spawn(storm(plugin.clone(), authority.clone(), 100));
    upstream.reached_by(16).await;
    let others: Vec<_> = (0..7).map(|_| tokio::spawn(storm(plugin.clone(), authority.clone(), 16))).collect();
    upstream.reached_by(128).await;
    // The plugin has reached its limit.
    let (answered, refused) = storm(plugin.clone(), authority.clone(), 16).await;
    assert_eq!((answered, refused.len()), (0, 16));
    // Another plugin is not affected.
    let neighbour = tokio::spawn(storm(bed.allowing(&[&authority]).await, authority.clone(), 1));
    upstream.reached_by(129).await;
    answer.send(true).unwrap();
    let (answered, refused) = one.await.unwrap();
    assert_eq!((answered, refused.len()), (16, 84));
    assert!(
        refused.iter().all(|why| why.as_str().unwrap().contains("ConnectionLimitReached")),
        "{refused:?}"
    );
    for other in others {
        assert_eq!(other.await.unwrap(), (16, Vec::new()));
    }
    assert_eq!(neighbour.await.unwrap(), (1, Vec::new()));
    assert_eq!(upstream.count(), 129);
    drop(plugin);
    bed.node.engine.memory().trim_freed();
    assert!(bed.node.used() <= before, "memory of the requests is still reserved");
}

#[tokio::test]
async fn the_connections_of_a_call_close_when_it_ends() {
    let Held { upstream, mut gone, answer } = held().await;
    let bed = bed().await;
    let authority = format!("127.0.0.1:{}", upstream.port);
    let network = NetworkGrant::new(std::slice::from_ref(&authority)).unwrap();
    let plugin = bed.load_within(Some(network), Duration::from_millis(700)).await.unwrap();
    let ended = call(&plugin, "storm", json!([authority, 8]).to_string()).await;
    assert!(matches!(ended, Err(CallError::Timeout { .. })), "{ended:?}");
    let all = gone.wait_for(|&gone| gone == upstream.count());
    tokio::time::timeout(Duration::from_secs(5), all).await.expect("connections outlive their call").unwrap();
    assert_eq!(upstream.count(), 8);
    drop(answer);
}

#[tokio::test]
async fn a_silent_name_server_ends_in_a_timeout() {
    let names = NameServer::start(&[("silent.example", Records::Silence)]).await;
    let bed =
        Bed::new(NetworkOptions { name_servers: vec![names.address], ..NetworkOptions::default() }).await;
    let plugin = bed.allowing(&["silent.example", "nothing.example"]).await;
    let started = Instant::now();
    let why = fetch(&plugin, "silent.example").await.unwrap_err();
    assert!(why.contains("Dns") && started.elapsed() < Duration::from_secs(9), "{why}");
    let why = fetch(&plugin, "nothing.example").await.unwrap_err();
    assert!(why.contains("DnsError") && why.contains("NXDOMAIN"), "{why}");
}
