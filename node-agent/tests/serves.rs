//! A whole agent without a cluster: it loads modules, and answers calls over real sockets.

// Always true here; with it, clippy allows `unwrap` as in other tests.
#[cfg(test)]
mod agent;
#[cfg(test)]
mod batches;

use std::time::Duration;

use agent::{Served, guest, problem};
use reqwest::{StatusCode, header};
use samovar_crds::State;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn arguments_come_by_name_or_by_position_and_the_answer_is_json() {
    let served = Served::start(&[("text", guest("../../examples/text/text.wasm"), json!({}))]).await;
    for (function, body, expected) in [
        ("upper", r#"{"text": "a b"}"#, json!("A B")),
        ("upper", r#"["a b"]"#, json!("A B")),
        ("apply", r#"["ab", {"repeat": 2}]"#, json!("abab")),
        ("parse-number", r#"{"text": "42"}"#, json!(42)),
    ] {
        let answer = served.post(&format!("/v1/demo/text/{function}"), body).await;
        assert_eq!(answer.status(), 200, "{function} {body}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        let timing = answer.headers()["server-timing"].to_str().unwrap().to_owned();
        for part in ["queue;dur=", "instantiate;dur=", "run;dur="] {
            assert!(timing.contains(part), "{timing}");
        }
        assert_eq!(answer.json::<Value>().await.unwrap(), expected, "{function} {body}");
    }
    let (status, problem) = problem(served.post("/v1/demo/text/parse-number", r#"["x"]"#).await).await;
    assert_eq!((status, &problem["title"]), (502, &json!("The guest answered with an error")));
    assert_eq!(problem["detail"], json!({ "problem": "not-a-number", "at": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_is_no_arguments_and_a_missing_content_type_is_json() {
    let served = Served::start(&[("scalars", guest("scalars.wat"), json!({}))]).await;
    assert_eq!(served.post("/v1/demo/scalars/nothing", "").await.status(), 200);
    let untyped = served.client.post(served.url("/v1/demo/scalars/add")).body("[2, 3]").send().await.unwrap();
    assert_eq!(untyped.text().await.unwrap(), "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_in_and_out_as_they_are() {
    let served = Served::start(&[("echo", guest("echo.wat"), json!({}))]).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let request = served.client.post(served.url("/v1/demo/echo/echo"));
    let answer = request
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(bytes.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/octet-stream");
    assert_eq!(answer.bytes().await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_found_by_its_host_in_http_1_and_http_2() {
    let served = Served::start(&[("scalars", guest("scalars.wat"), json!({}))]).await;
    for host in ["scalars.demo", "scalars.demo.svc.cluster.local:80"] {
        let request = served.client.post(served.url("/add")).header(header::HOST, host);
        assert_eq!(request.body("[2, 3]").send().await.unwrap().text().await.unwrap(), "5", "{host}");
        let (status, body) = served.http2(&format!("http://{host}/add"), "[2, 3]").await;
        assert_eq!((status, body.as_slice()), (StatusCode::OK, b"5".as_slice()), "{host}");
    }
    let (status, _) = served.http2("http://scalars.demo/gone", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_describes_itself() {
    let functions = json!({
        "functions": [{ "name": "sum-up", "export": "add", "limits": { "timeout": "50ms" } }],
        "limits": { "concurrency": 3 },
    });
    let served = Served::start(&[
        ("chosen", guest("scalars.wat"), functions),
        ("all", guest("scalars.wat"), json!({})),
    ])
    .await;
    let get = |path: &str, host: Option<&'static str>| {
        let request = served.client.get(served.url(path));
        host.into_iter().fold(request, |request, host| request.header(header::HOST, host)).send()
    };
    let by_path: Value = get("/v1/demo/chosen", None).await.unwrap().json().await.unwrap();
    let by_host: Value = get("/", Some("chosen.demo")).await.unwrap().json().await.unwrap();
    assert_eq!(by_path, by_host);
    assert_eq!(
        (&by_path["namespace"], &by_path["name"], &by_path["revision"]),
        (&json!("demo"), &json!("chosen"), &json!("chosen-1"))
    );
    assert_eq!(
        (&by_path["limits"]["concurrency"], &by_path["limits"]["memory"]),
        (&json!(3), &json!("64Mi"))
    );
    let [function] = by_path["functions"].as_array().unwrap().as_slice() else { panic!("{by_path}") };
    assert_eq!((&function["name"], &function["abi"]), (&json!("sum-up"), &json!("Scalar")));
    assert_eq!(function["path"], "/v1/demo/chosen/sum-up");
    assert_eq!(function["limits"], json!({ "timeout": "50ms" }));
    let all: Value = get("/v1/demo/all", None).await.unwrap().json().await.unwrap();
    let vector = all["functions"].as_array().unwrap().iter().find(|function| function["name"] == "vector");
    assert!(vector.unwrap()["notCallable"].is_string(), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_its_own_problem() {
    let short = json!({ "limits": { "timeout": "200ms", "memory": "1Mi", "requestBytes": "1Ki", "responseBytes": "16" } });
    let served = Served::start(&[
        ("scalars", guest("scalars.wat"), json!({})),
        ("spin", guest("spin.wat"), short.clone()),
        ("grow", guest("grow.wat"), short.clone()),
        ("trap", guest("trap.wat"), json!({})),
        ("echo", guest("echo.wat"), short),
        ("broken", b"not a module".to_vec(), json!({})),
    ])
    .await;
    let long = format!("\"{}\"", "x".repeat(2000));
    for (path, body, status, slug) in [
        ("/v1/demo/scalars/add", "[1]", 400, "bad-arguments"),
        ("/v1/demo/scalars/add", "{", 400, "bad-arguments"),
        ("/v1/demo/scalars/gone", "[]", 404, "not-found"),
        ("/v1/demo/scalars/vector", "[]", 404, "not-found"),
        ("/v1/demo/gone/add", "[]", 404, "not-found"),
        ("/nothing", "[]", 404, "not-found"),
        ("/v1/demo/echo/echo", &long, 413, "too-large"),
        ("/v1/demo/trap/fail", "[]", 500, "trap"),
        ("/v1/demo/grow/minds", "[]", 500, "memory-limit"),
        ("/v1/demo/echo/echo", "\"more than sixteen\"", 502, "response-too-large"),
        ("/v1/demo/broken/add", "[]", 503, "not-ready"),
        ("/v1/demo/spin/spin", "[]", 504, "timeout"),
    ] {
        let (answered, problem) = problem(served.post(path, body.to_owned()).await).await;
        assert_eq!(
            (answered, &problem["type"], &problem["status"]),
            (status, &json!(format!("https://samovar.dev/problems/{slug}")), &json!(status)),
            "{path}: {problem}"
        );
    }
    let (_, trapped) = problem(served.post("/v1/demo/trap/fail", "[]").await).await;
    assert_eq!(trapped["backtrace"], json!(["inner", "outer", "fail"]));
    let not_ready = served.post("/v1/demo/broken/add", "[]").await;
    assert!(not_ready.headers().contains_key(header::RETRY_AFTER));
    let (_, not_ready) = problem(not_ready).await;
    assert!(not_ready["detail"].as_str().unwrap().starts_with("ModuleInvalid: "), "{not_ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_and_media_types_are_refused_with_the_supported_ones() {
    let served = Served::start(&[("scalars", guest("scalars.wat"), json!({}))]).await;
    for (method, path, allow) in [
        ("GET", "/v1/demo/scalars/add", "POST"),
        ("DELETE", "/v1/demo/scalars/add", "POST"),
        ("POST", "/v1/demo/scalars", "GET"),
    ] {
        let method = method.parse().unwrap();
        let answer = served.client.request(method, served.url(path)).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()[header::ALLOW]),
            (405, &allow.parse().unwrap())
        );
    }
    for media in ["text/plain", "application/octet-stream"] {
        let request = served.client.post(served.url("/v1/demo/scalars/add"));
        let answer = request.header(header::CONTENT_TYPE, media).body("[1, 2]").send().await.unwrap();
        let (status, problem) = problem(answer).await;
        assert_eq!((status, &problem["detail"]), (415, &json!("function `add` takes application/json")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_past_its_limit_is_refused_announced_or_streamed() {
    let served =
        Served::start(&[("echo", guest("echo.wat"), json!({ "limits": { "requestBytes": "64Ki" } }))]).await;
    for size in [65 << 10, 4 << 20] {
        let announced = served.post("/v1/demo/echo/echo", vec![b' '; size]).await;
        assert_eq!(problem(announced).await.0, 413, "{size} bytes, announced");
        let chunks = (0..size / 1024).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024]));
        let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
        let streamed = served.post("/v1/demo/echo/echo", body).await;
        assert_eq!(problem(streamed).await.0, 413, "{size} bytes, streamed");
    }
    let elsewhere = served.post("/v1/demo/gone/echo", vec![b' '; 4 << 20]).await;
    assert_eq!(problem(elsewhere).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_ends_at_the_functions_timeout() {
    let served =
        Served::start(&[("echo", guest("echo.wat"), json!({ "limits": { "timeout": "200ms" } }))]).await;
    let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let answer = served.post("/v1/demo/echo/echo", reqwest::Body::wrap_stream(never)).await;
    let (status, problem) = problem(answer).await;
    assert_eq!((status, &problem["type"]), (504, &json!("https://samovar.dev/problems/timeout")));
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_concurrency_a_plugin_refuses_while_others_answer() {
    let one = json!({ "limits": { "timeout": "20s", "concurrency": 1, "queue": 0 } });
    let served =
        Served::start(&[("spin", guest("spin.wat"), one), ("scalars", guest("scalars.wat"), json!({}))])
            .await;
    let spinning = tokio::spawn(served.request("/v1/demo/spin/spin", "[]").send());
    served.until_metric(r#"samovar_agent_calls_running{namespace="demo",plugin="spin"} 1"#).await;
    let refused = served.post("/v1/demo/spin/add", "[1, 2]").await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert_eq!(problem(refused).await.0, 429);
    assert_eq!(served.post("/v1/demo/scalars/add", "[1, 2]").await.text().await.unwrap(), "3");
    // The caller disconnects, which aborts its call: the plugin answers again, long before the timeout.
    spinning.abort();
    served.until_metric(r#"samovar_agent_calls_running{namespace="demo",plugin="spin"} 0"#).await;
    assert_eq!(served.post("/v1/demo/spin/add", "[1, 2]").await.text().await.unwrap(), "3");
    served.until_metric(
        r#"samovar_agent_calls_total{namespace="demo",plugin="spin",function="add",outcome="overloaded"} 1"#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_past_the_agents_limit_of_instances_are_refused() {
    let many = json!({ "limits": { "timeout": "20s" }, "instances": { "warm": 0 } });
    let served = Served::start(&[("spin", guest("spin.wat"), many)]).await;
    let add = async || served.post("/v1/demo/spin/add", "[1, 2]").await;
    let spin = || tokio::spawn(served.request("/v1/demo/spin/spin", "[]").send());
    // All instances but one, and then the last.
    let spinning: Vec<_> = (0..49).map(|_| spin()).collect();
    served.until_metric(r#"samovar_agent_calls_running{namespace="demo",plugin="spin"} 49"#).await;
    assert_eq!(add().await.text().await.unwrap(), "3");
    let last = spin();
    served.until_metric(r#"samovar_agent_calls_running{namespace="demo",plugin="spin"} 50"#).await;
    let refused = add().await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    let (status, body) = problem(refused).await;
    assert_eq!((status, &body["type"]), (503, &json!("https://samovar.dev/problems/overloaded")));
    last.abort();
    served.until_metric(r#"samovar_agent_calls_running{namespace="demo",plugin="spin"} 49"#).await;
    assert_eq!(add().await.text().await.unwrap(), "3");
    spinning.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_revision_takes_over_when_it_is_ready_and_a_broken_one_never_does() {
    let served = Served::start(&[("text", guest("scalars.wat"), json!({}))]).await;
    served.add("text", 2, b"not a module".to_vec(), json!({}));
    assert_eq!(served.settled("text", 2).await.state, State::Failed);
    assert_eq!(served.post("/v1/demo/text/add", "[1, 2]").await.text().await.unwrap(), "3");
    served.add("text", 3, guest("echo.wat"), json!({}));
    assert_eq!(served.settled("text", 3).await.state, State::Ready);
    assert_eq!(served.post("/v1/demo/text/echo", "\"a\"").await.status(), 200);
    assert_eq!(served.post("/v1/demo/text/add", "[1, 2]").await.status(), 404);
    served.remove("text", 3);
    served
        .until("the first revision answers again", || async {
            served.post("/v1/demo/text/add", "[1, 2]").await.status() == 200
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_plugins_of_one_module_compile_it_once_and_a_restart_not_at_all() {
    let names = ["a", "b", "c", "d"];
    let plugins = names.map(|name| (name, guest("scalars.wat"), json!({})));
    let served = Served::start(&plugins).await;
    served.until_metric("samovar_agent_compile_seconds_count 1").await;
    let served = served.restarted(&plugins).await;
    for name in names {
        assert!(served.settled(name, 1).await.load_stats.unwrap().cache_hit, "{name}");
    }
    assert!(served.metrics().await.contains("samovar_agent_compile_seconds_count 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_running_calls_and_accepts_no_connections() {
    let slow = json!({ "limits": { "timeout": "2s" } });
    let served = Served::start(&[("spin", guest("spin.wat"), slow)]).await;
    served.agent().set_ready(true);
    assert_eq!(served.ops("/readyz").await.status(), 200);
    let running = tokio::spawn(served.request("/v1/demo/spin/spin", "[]").send());
    served.until_metric(r#"samovar_agent_calls_running{namespace="demo",plugin="spin"} 1"#).await;
    let (address, ops) = (served.agent().address, served.ops_url("/readyz"));
    let stopping = tokio::spawn(served.shutdown());
    agent::until("no connection is accepted", || async {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    assert_eq!(reqwest::get(&ops).await.unwrap().status(), 503);
    // The call ran until its own timeout, and its caller got that as the problem.
    assert_eq!(running.await.unwrap().unwrap().status(), 504);
    tokio::time::timeout(Duration::from_secs(10), stopping).await.expect("it stops soon after").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let served = Served::start(&[]).await;
    // The second has the first byte of what might become HTTP/2.
    let silences = ["", "P"].map(async |sent| {
        let mut silent = tokio::net::TcpStream::connect(served.agent().address).await.unwrap();
        silent.write_all(sent.as_bytes()).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(30), silent.read(&mut [0])).await;
        assert_eq!(read.expect("it is closed").unwrap_or(0), 0, "{sent:?}");
    });
    futures::future::join_all(silences).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_an_error_that_names_the_option() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let state = tempfile::tempdir().unwrap();
    let (_sender, desired) = tokio::sync::watch::channel(samovar_node_agent::Desired::new());
    let mut options = agent::options(state.path());
    options.listen = taken.local_addr().unwrap();
    let refused = samovar_node_agent::Agent::start(options, desired).err().unwrap().to_string();
    assert!(refused.ends_with("choose another address with --listen"), "{refused}");
}
