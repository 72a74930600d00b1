//! Batches and programs over real sockets: an answer for each line, and the media types of programs.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, channel::mpsc};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use reqwest::{Response, header};
use serde_json::{Value, json};

use crate::agent::{Served, guest, problem};

const NDJSON: &str = "application/x-ndjson";

async fn batch(served: &Served, path: &str, body: impl Into<reqwest::Body>) -> Response {
    let request = served.client.post(served.url(path)).header(header::CONTENT_TYPE, NDJSON).body(body);
    request.send().await.unwrap()
}

async fn lines(answer: Response) -> Vec<Value> {
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], NDJSON);
    answer.text().await.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The problem's type, or the answer.
fn brief(line: &Value) -> Value {
    match line["type"].as_str() {
        Some(uri) => uri.rsplit('/').next().into(),
        None => line.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_has_its_own_answer_in_order() {
    let limits = json!({ "limits": { "requestBytes": "64" } });
    let served = Served::start(&[
        ("scalars", guest("scalars.wat"), limits),
        ("trap", guest("trap.wat"), json!({})),
        ("echo", guest("echo.wat"), json!({})),
        ("command", guest("command.wat"), json!({})),
    ])
    .await;
    let body = format!("[1, 2]\n{{\"p0\": 3, \"p1\": 4}}\r\n[1\n\n{}\n[5, 6]", "x".repeat(100_000));
    let answers = lines(batch(&served, "/v1/demo/scalars/add", body).await).await;
    let brief_answers: Vec<_> = answers.iter().map(brief).collect();
    assert_eq!(brief_answers, [json!(3), json!(7), json!("bad-arguments"), json!("too-large"), json!(11)]);
    assert_eq!(answers[2]["status"], 400);

    let traps = lines(batch(&served, "/v1/demo/trap/fail", "[]\n[]\n").await).await;
    assert_eq!(traps.iter().map(brief).collect::<Vec<_>>(), [json!("trap"), json!("trap")]);
    let bytes = lines(batch(&served, "/v1/demo/echo/echo", "a b").await).await;
    assert_eq!(bytes, [json!("YSBi")]);
    let text = lines(batch(&served, "/v1/demo/command/run", "[\"ä\"]\n\"!\"\n").await).await;
    assert_eq!(text, [json!("run\nä\n[\"ä\"]"), json!("run\n\"!\"")]);
    assert_eq!(lines(batch(&served, "/v1/demo/scalars/add", "").await).await, Vec::<Value>::new());

    served
        .until_metric(
            r#"samovar_agent_calls_total{namespace="demo",plugin="scalars",function="add",outcome="ok"} 3"#,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_before_the_next_line_is_sent() {
    let served = Served::start(&[("scalars", guest("scalars.wat"), json!({}))]).await;
    let stream = tokio::net::TcpStream::connect(served.agent().address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (mut send, receive) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let request = hyper::Request::post("/v1/demo/scalars/add")
        .header(header::CONTENT_TYPE, NDJSON)
        .body(StreamBody::new(receive))
        .unwrap();
    let line = |at: u32| Ok(Frame::data(Bytes::from(format!("[{at}, 1]\n"))));
    send.send(line(0)).await.unwrap();
    let mut answer = sender.send_request(request).await.unwrap();
    for at in 0..50 {
        let frame = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, format!("{}\n", at + 1));
        send.send(line(at + 1)).await.unwrap();
    }
    drop(send);
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "51\n");
    assert!(answer.frame().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_line_ends_the_batch_and_an_endless_call_only_itself() {
    let short = json!({ "limits": { "timeout": "100ms" } });
    let served = Served::start(&[
        ("spin", guest("spin.wat"), short.clone()),
        ("scalars", guest("scalars.wat"), short),
    ])
    .await;
    let spins = lines(batch(&served, "/v1/demo/spin/spin", "\"a\"\n[]\n[]\n").await).await;
    assert_eq!(spins.iter().map(brief).collect::<Vec<_>>(), ["bad-arguments", "timeout", "timeout"]);
    let stream = futures::stream::once(async { Ok::<_, std::io::Error>("[1, 2]\n[3") });
    let stalled = futures::StreamExt::chain(stream, futures::stream::pending());
    let ended = batch(&served, "/v1/demo/scalars/add", reqwest::Body::wrap_stream(stalled)).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), lines(ended)).await.unwrap();
    assert_eq!(ended.iter().map(brief).collect::<Vec<_>>(), [json!(3), json!("timeout")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_for_a_missing_function_is_one_problem() {
    let served = Served::start(&[("scalars", guest("scalars.wat"), json!({}))]).await;
    let (status, problem) = problem(batch(&served, "/v1/demo/scalars/gone", "[1]\n").await).await;
    assert_eq!((status, brief(&problem)), (404, json!("not-found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_takes_any_media_type_and_answers_text_or_bytes() {
    let served = Served::start(&[("command", guest("command/command.wasm"), json!({}))]).await;
    for (takes, body, gives, answer) in [
        ("text/csv", &b"a,b"[..], "text/plain; charset=utf-8", &b"run\na,b"[..]),
        ("application/json", br#"["-n"]"#, "text/plain; charset=utf-8", b"run\n-n\n[\"-n\"]"),
        ("image/png", &[0x89], "application/octet-stream", b"run\n\x89"),
        ("application/octet-stream", b"text", "application/octet-stream", b"run\ntext"),
    ] {
        let request = served.client.post(served.url("/v1/demo/command/run"));
        let given = request.header(header::CONTENT_TYPE, takes).body(body).send().await.unwrap();
        assert_eq!(given.headers()[header::CONTENT_TYPE], gives, "{takes}");
        assert_eq!(given.bytes().await.unwrap(), answer, "{takes}");
    }
    let (status, problem) = problem(served.post("/v1/demo/command/run", "!wrong\n").await).await;
    assert_eq!((status, brief(&problem)), (502, json!("guest-error")));
    assert_eq!(problem["detail"], "it exited with status 1: !wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_gets_its_config_and_a_changed_one_as_another_revision() {
    let served = Served::start(&[("trio", guest("trio.wat"), json!({ "config": { "a": 1 } }))]).await;
    let path = "/v1/demo/trio/process-data";
    assert_eq!(served.post(path, "x").await.text().await.unwrap(), r#"{"a":1}|x"#);
    served.add("trio", 2, guest("trio.wat"), json!({ "config": { "a": 2 } }));
    served.settled("trio", 2).await;
    served
        .until("the new config is in use", || async {
            served.post(path, "x").await.text().await.unwrap() == r#"{"a":2}|x"#
        })
        .await;
}
