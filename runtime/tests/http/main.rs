//! Guests of `type: Http`: bodies stream both ways with backpressure, and every guest ends in time.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

#[path = "../support/mod.rs"]
mod support;
mod three;
mod variants;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use samovar_runtime::{
    Abi, CallError, Function, Instances, Limits, LoadError, Plugin, PluginSpec, ResponseBody, Reuse,
};
use support::until;

const GUEST: &str = "tests/guests/http/http.wasm";

fn spec() -> PluginSpec {
    let limits = Limits { timeout: Duration::from_secs(20), ..Limits::default() };
    PluginSpec { name: "demo/http".into(), limits, http: true, ..PluginSpec::default() }
}

async fn guest(spec: PluginSpec) -> Plugin {
    support::load(support::guest(GUEST), spec).await.unwrap()
}

fn handler(plugin: &Plugin) -> Arc<Function> {
    Arc::clone(plugin.function("http").unwrap())
}

fn request<B>(path: &str, body: B) -> Request<B> {
    Request::builder().uri(format!("http://guest.demo/{path}")).body(body).unwrap()
}

async fn send<B>(plugin: &Plugin, request: Request<B>) -> Result<Response<ResponseBody>, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    plugin.admit(&handler(plugin), request.body().size_hint().lower()).await?.serve(request).await
}

async fn get(plugin: &Plugin, path: &str) -> Result<Response<ResponseBody>, CallError> {
    send(plugin, request(path, Empty::new())).await
}

async fn text(response: Response<ResponseBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A body that counts the chunks that were polled.
struct Chunks {
    left: u64,
    taken: Arc<AtomicU64>,
}

const CHUNK: &[u8] = &[7; 16 << 10];

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK)))))
    }
}

fn chunks(bytes: u64) -> (Chunks, Arc<AtomicU64>) {
    let taken = Arc::default();
    (Chunks { left: bytes / CHUNK.len() as u64, taken: Arc::clone(&taken) }, taken)
}

/// Waits until no call runs.
async fn idle(plugin: &Plugin) {
    until(|| plugin.running() == 0).await;
}

#[tokio::test]
async fn a_guest_gets_a_request_and_returns_a_response() {
    let plugin = guest(spec()).await;
    assert_eq!(plugin.functions().len(), 1);
    assert_eq!(handler(&plugin).abi(), Some(Abi::Http));
    let response = get(&plugin, "text").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    // The body was complete, so its length is known.
    assert_eq!(response.body().size_hint().exact(), Some(5));
    assert_eq!(text(response).await, "hello");
    let echoed = send(&plugin, request("echo", Full::from("a body"))).await.unwrap();
    assert_eq!(text(echoed).await, "a body");
    assert_eq!(get(&plugin, "status?418").await.unwrap().status(), StatusCode::IM_A_TEAPOT);
    idle(&plugin).await;
}

#[tokio::test]
async fn a_guest_sees_the_request_without_its_hop_by_hop_fields() {
    let plugin = guest(spec()).await;
    let request = Request::builder()
        .method("PURGE")
        .uri("http://guest.demo/a/head?q=1")
        .header("host", "guest.demo")
        .header("traceparent", "00-1-2-01")
        .header("transfer-encoding", "chunked")
        .body(Empty::new())
        .unwrap();
    let seen = text(send(&plugin, request).await.unwrap()).await;
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines, ["PURGE /a/head?q=1 Some(Scheme::Http) guest.demo", "traceparent: 00-1-2-01"]);
}

#[tokio::test]
async fn a_module_of_the_other_type_is_refused() {
    let as_functions = support::load(support::guest(GUEST), PluginSpec { http: false, ..spec() }).await;
    let Err(LoadError::ExportNotFound(why)) = as_functions else { panic!("it has no function") };
    assert!(why.contains("set `type: Http`"), "{why}");
    let as_http = support::load(support::guest("examples/text/text.wasm"), spec()).await;
    let Err(LoadError::ExportNotFound(why)) = as_http else { panic!("it has no handler") };
    assert!(why.contains("wasi:http/incoming-handler") && why.contains("#upper"), "{why}");
}

#[tokio::test]
async fn a_response_is_streamed_as_the_guest_writes_it() {
    let plugin = guest(spec()).await;
    let mut body = get(&plugin, "slowly?600000").await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first\n");
    assert_eq!(plugin.running(), 1);
    drop(body);
    idle(&plugin).await;
}

#[tokio::test]
async fn trailers_are_forwarded_both_ways() {
    let plugin = guest(spec()).await;
    let sent = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
    let frames = [Frame::data(Bytes::from_static(b"abc")), Frame::trailers(sent)].map(Ok::<_, Infallible>);
    let body = StreamBody::new(futures::stream::iter(frames));
    let response = send(&plugin, request("trailers", body)).await.unwrap();
    // HTTP/1.1 has trailers only in a body without a length.
    assert_eq!(response.body().size_hint().exact(), None);
    let whole = response.into_body().collect().await.unwrap();
    let trailers = whole.trailers().unwrap();
    assert_eq!((trailers["x-sum"].as_bytes(), trailers["x-from"].as_bytes()), (&b"7"[..], &b"guest"[..]));
    assert_eq!(whole.to_bytes(), "body");
}

#[tokio::test]
async fn backpressure_holds_a_guest_to_the_pace_of_its_reader() {
    const GIBIBYTE: u64 = 1 << 30;
    let limits = Limits { response_bytes: 2 * GIBIBYTE, ..spec().limits };
    let plugin = guest(PluginSpec { limits, ..spec() }).await;
    let before = resident();
    let mut body = get(&plugin, &format!("stream?{GIBIBYTE}")).await.unwrap().into_body();
    let (mut read, mut most) = (0, 0);
    // A slow reader: in between, the guest could have the thread as often as it wants.
    while read < 64 << 20 {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64;
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        most = most.max(resident());
    }
    assert!(most < before + (16 << 20), "{before} before, {most} at most");
    assert_eq!(plugin.running(), 1, "the guest has more to write");
    drop(body);
    idle(&plugin).await;
}

#[tokio::test]
async fn a_body_that_its_guest_does_not_read_is_not_polled() {
    let limits = Limits { request_bytes: 2 << 30, ..spec().limits };
    let plugin = guest(PluginSpec { limits, ..spec() }).await;
    let (body, taken) = chunks(1 << 30);
    assert_eq!(text(send(&plugin, request("ignore?20", body)).await.unwrap()).await, "ignored");
    assert_eq!(taken.load(Ordering::Relaxed), 0);
    let (body, taken) = chunks(64 << 20);
    assert_eq!(text(send(&plugin, request("count", body)).await.unwrap()).await, (64 << 20).to_string());
    assert_eq!(taken.load(Ordering::Relaxed), (64 << 20) / CHUNK.len() as u64);
}

#[tokio::test]
async fn dropping_a_call_ends_its_guest() {
    let plugin = guest(spec()).await;
    for path in ["hang", "spin"] {
        let waiting = tokio::time::timeout(Duration::from_millis(50), get(&plugin, path)).await;
        assert!(waiting.is_err());
        assert_eq!(plugin.running(), 0, "{path}");
    }
}

#[tokio::test]
async fn after_its_response_a_guest_may_run_until_its_timeout() {
    let limits = Limits { timeout: Duration::from_millis(300), ..Limits::default() };
    let plugin = guest(PluginSpec { limits, ..spec() }).await;
    for (path, ends_before) in [("linger?50", true), ("linger?60000", false)] {
        let started = Instant::now();
        let response = get(&plugin, path).await.unwrap();
        assert_eq!(text(response).await, "done");
        assert_eq!(plugin.running(), 1, "{path}");
        idle(&plugin).await;
        assert_eq!(started.elapsed() < Duration::from_millis(290), ends_before, "{path}");
    }
}

#[tokio::test]
async fn a_guest_ends_at_its_timeout_before_and_after_its_response() {
    let limits = Limits { timeout: Duration::from_millis(100), ..Limits::default() };
    let plugin = guest(PluginSpec { limits, ..spec() }).await;
    for path in ["hang", "spin"] {
        assert!(matches!(get(&plugin, path).await, Err(CallError::Timeout { .. })), "{path}");
    }
    // Waiting for a body that never comes counts as the guest's time.
    let never = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>());
    assert!(matches!(send(&plugin, request("count", never)).await, Err(CallError::Timeout { .. })));
    // The head is sent: the body is truncated, and its reader sees an error, not an end.
    let begun = get(&plugin, "slowly?60000").await.unwrap();
    let broken = begun.into_body().collect().await.unwrap_err();
    assert!(matches!(broken.0, CallError::Timeout { .. }), "{broken}");
    // A reader that reads nothing does not keep the guest alive.
    let unread = get(&plugin, "stream?1000000").await.unwrap();
    idle(&plugin).await;
    assert!(unread.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_failure_of_a_guest_never_passes_for_a_response() {
    let plugin = guest(spec()).await;
    for (path, says) in [
        ("trap", "unreachable"),
        ("silent", "without setting a response"),
        ("short", "did not finish"),
        ("status?101", "1xx"),
    ] {
        let Err(CallError::Trap { message, .. }) = get(&plugin, path).await else { panic!("{path}") };
        assert!(message.contains(says), "{path}: {message}");
    }
    let Err(CallError::GuestError(code)) = get(&plugin, "refuse").await else { panic!("it refused") };
    assert!(code.contains("LoopDetected"), "{code}");
    // A guest that returns without finishing its body, in a fresh instance and in one that could be reused.
    let reuse = Instances { warm: 1, reuse: Some(Reuse { max_calls: 9, idle: Duration::from_mins(9) }) };
    for plugin in [&plugin, &guest(PluginSpec { instances: reuse, ..spec() }).await] {
        let broken = match get(plugin, "leave").await {
            Ok(begun) => begun.into_body().collect().await.unwrap_err().0,
            Err(error) => error,
        };
        assert!(broken.to_string().contains("did not finish"), "{broken}");
    }
    let half = get(&plugin, "half?20").await.unwrap();
    let broken = half.into_body().collect().await.unwrap_err();
    assert!(matches!(broken.0, CallError::Trap { .. }), "{broken}");
    idle(&plugin).await;
}

#[tokio::test]
async fn bodies_have_limits_both_ways() {
    let limits = Limits { request_bytes: 100_000, response_bytes: 100_000, ..spec().limits };
    let plugin = guest(PluginSpec { limits, ..spec() }).await;
    let (unsaid, _) = chunks(1 << 20);
    let (said, too) = (Full::from(vec![1; 100_001]), CallError::TooLarge { limit: 100_000 });
    assert_eq!(send(&plugin, request("count", said)).await.err().unwrap().to_string(), too.to_string());
    assert_eq!(send(&plugin, request("count", unsaid)).await.err().unwrap().to_string(), too.to_string());
    let just = Full::from(vec![1; 100_000]);
    assert_eq!(text(send(&plugin, request("count", just)).await.unwrap()).await, "100000");
    let just = get(&plugin, "stream?100000").await.unwrap();
    assert_eq!(text(just).await.len(), 100_000);
    let broken = get(&plugin, "stream?100001").await.unwrap().into_body().collect().await.unwrap_err();
    assert!(matches!(broken.0, CallError::ResponseTooLarge { limit: 100_000 }), "{broken}");
    idle(&plugin).await;
}

#[tokio::test]
async fn headers_and_handles_have_limits() {
    let plugin = guest(spec()).await;
    assert_eq!(get(&plugin, "headers?20").await.unwrap().headers().len(), 20);
    // WASI 0.2 has no word for a section that is too large: it traps.
    assert!(matches!(get(&plugin, "headers?100").await, Err(CallError::Trap { .. })));
    assert_eq!(text(get(&plugin, "handles?4000").await.unwrap()).await, "4000");
    assert!(matches!(get(&plugin, "handles?5000").await, Err(CallError::Trap { .. })));
    assert!(matches!(get(&plugin, "grow?80000000").await, Err(CallError::MemoryLimit { .. })));
}

#[tokio::test]
async fn requests_queue_beyond_concurrency_and_are_refused_beyond_the_queue() {
    let limits = Limits { concurrency: 1, queue: 1, ..spec().limits };
    let plugin = guest(PluginSpec { limits, ..spec() }).await;
    let first = get(&plugin, "slowly?600000").await.unwrap();
    let second = get(&plugin, "text");
    tokio::pin!(second);
    assert!(futures::poll!(second.as_mut()).is_pending());
    assert!(matches!(get(&plugin, "text").await, Err(CallError::Overloaded)));
    drop(first);
    assert_eq!(text(second.await.unwrap()).await, "hello");
}

#[tokio::test]
async fn each_request_has_a_fresh_instance_unless_reuse_is_set() {
    let fresh = guest(spec()).await;
    for _ in 0..3 {
        assert_eq!(text(get(&fresh, "served").await.unwrap()).await, "1");
    }
    let instances = Instances { warm: 0, reuse: Some(Reuse { max_calls: 2, idle: Duration::from_mins(1) }) };
    let reused = guest(PluginSpec { instances, ..spec() }).await;
    for served in ["1", "2", "1"] {
        assert_eq!(text(get(&reused, "served").await.unwrap()).await, served);
    }
}

#[tokio::test]
async fn a_response_without_a_body_ends_no_guest() {
    let plugin = guest(spec()).await;
    let head = Request::builder().method(Method::HEAD).uri("http://guest.demo/linger?50");
    let response = send(&plugin, head.body(Empty::new()).unwrap()).await.unwrap();
    assert!(response.body().is_end_stream());
    assert_eq!(plugin.running(), 1);
    drop(response);
    idle(&plugin).await;
    let none = get(&plugin, "status?204").await.unwrap();
    assert_eq!((none.status(), text(none).await), (StatusCode::NO_CONTENT, String::new()));
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
