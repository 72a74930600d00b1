//! Guests of WASI 0.3, which behave like those of 0.2.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use samovar_runtime::{CallError, Instances, Limits, Plugin, PluginSpec, Reuse};

use crate::{get, handler, idle, request, send, spec, support, text};

async fn guest(spec: PluginSpec) -> Plugin {
    support::load(support::guest("tests/guests/http3/http3.wasm"), spec).await.unwrap()
}

#[tokio::test]
async fn a_wasi_0_3_guest_streams_both_ways_with_trailers() {
    let plugin = guest(spec()).await;
    assert!(handler(&plugin).export().starts_with("wasi:http/handler@0.3."));
    assert_eq!(text(get(&plugin, "text").await.unwrap()).await, "hello");
    let sent = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let body = StreamBody::new(receiver.map(Ok::<_, Infallible>));
    let mut echoed = send(&plugin, request("echo", body)).await.unwrap().into_body();
    for word in ["one", "two"] {
        sender.unbounded_send(Frame::data(Bytes::from_static(word.as_bytes()))).unwrap();
        assert_eq!(echoed.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    sender.unbounded_send(Frame::trailers(sent)).unwrap();
    drop(sender);
    let trailers = echoed.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!((trailers["x-sum"].as_bytes(), trailers["x-from"].as_bytes()), (&b"7"[..], &b"guest"[..]));
    assert!(echoed.frame().await.is_none());
    idle(&plugin).await;
}

#[tokio::test]
async fn a_wasi_0_3_guest_ends_as_any_other() {
    let limits = Limits { timeout: Duration::from_millis(300), response_bytes: 1 << 30, ..Limits::default() };
    let plugin = guest(PluginSpec { limits, ..spec() }).await;
    for path in ["hang", "spin"] {
        assert!(matches!(get(&plugin, path).await, Err(CallError::Timeout { .. })), "{path}");
    }
    assert!(matches!(get(&plugin, "trap").await, Err(CallError::Trap { .. })));
    let Err(CallError::GuestError(code)) = get(&plugin, "refuse").await else { panic!("it refused") };
    assert!(code.contains("LoopDetected"), "{code}");
    for (path, traps) in
        [("half?20", true), ("slowly?60000", false), ("stream?1000000000", false), ("leave", false)]
    {
        let begun = get(&plugin, path).await.unwrap();
        // A reader that reads nothing does not keep the guest alive.
        idle(&plugin).await;
        let broken = begun.into_body().collect().await.unwrap_err();
        assert_eq!(matches!(broken.0, CallError::Trap { .. }), traps, "{path}: {broken}");
        assert_eq!(matches!(broken.0, CallError::Timeout { .. }), !traps, "{path}: {broken}");
    }
    drop(get(&plugin, "slowly?60000").await.unwrap());
    idle(&plugin).await;
}

#[tokio::test]
async fn a_wasi_0_3_instance_is_reused_only_after_a_complete_body() {
    let limits = Limits { timeout: Duration::from_millis(300), ..Limits::default() };
    let instances = Instances { warm: 0, reuse: Some(Reuse { max_calls: 9, idle: Duration::from_mins(1) }) };
    let plugin = guest(PluginSpec { limits, instances, ..spec() }).await;
    for _ in 0..2 {
        assert_eq!(text(get(&plugin, "text").await.unwrap()).await, "hello");
        idle(&plugin).await;
        assert_eq!(plugin.ready_instances(), 1);
    }
    let broken = get(&plugin, "leave").await.unwrap().into_body().collect().await.unwrap_err();
    assert!(matches!(broken.0, CallError::Timeout { .. }), "{broken}");
    idle(&plugin).await;
    assert_eq!(plugin.ready_instances(), 0);
}
