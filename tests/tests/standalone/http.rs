//! `type: Http` over real connections, in HTTP/1.1 and HTTP/2.

use std::{convert::Infallible, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, channel::mpsc};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    header::HeaderValue,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use samovar_testbed::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::server::{SOON, Server, file, folder, plugin};

async fn serve(name: &str, limits: &str) -> Result<Server> {
    let folder = folder(name)?;
    fs::copy(file("tests/guests/http/http.wasm"), folder.join("http.wasm"))?;
    fs::write(folder.join("web.yaml"), plugin("web", "http.wasm", &format!("type: Http{limits}")))?;
    Server::start(folder).await
}

type Body = BoxBody<Bytes, Infallible>;

/// A connection in either version of HTTP.
enum Caller {
    One(http1::SendRequest<Body>, JoinHandle<()>),
    Two(http2::SendRequest<Body>, JoinHandle<()>),
}

impl Caller {
    async fn both(server: &Server) -> Result<[Self; 2]> {
        let address = server.url.strip_prefix("http://").context("it is http")?;
        let connect = async || anyhow::Ok(TokioIo::new(TcpStream::connect(address).await?));
        let (one, connection) = http1::handshake(connect().await?).await?;
        let one = Self::One(one, tokio::spawn(async { drop(connection.await) }));
        let (two, connection) = http2::handshake(TokioExecutor::new(), connect().await?).await?;
        Ok([one, Self::Two(two, tokio::spawn(async { drop(connection.await) }))])
    }

    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>> {
        Ok(match self {
            Self::One(caller, _) => {
                caller.ready().await?;
                caller.send_request(request).await?
            }
            Self::Two(caller, _) => {
                caller.ready().await?;
                caller.send_request(request).await?
            }
        })
    }

    async fn get(&mut self, path: &str) -> Result<Response<Incoming>> {
        self.send(request(path, Empty::new().boxed())).await
    }

    /// A request to the plugin by its host, as this version of HTTP names it.
    async fn by_host(&mut self, host: &str, path: &str) -> Result<Response<Incoming>> {
        let request = match self {
            Self::One(..) => Request::builder().uri(path).header("host", host),
            Self::Two(..) => Request::builder().uri(format!("http://{host}{path}")),
        };
        self.send(request.body(Empty::new().boxed())?).await
    }

    /// Closes the connection, with its requests in progress.
    fn disconnect(self) {
        let (Self::One(_, connection) | Self::Two(_, connection)) = self;
        connection.abort();
    }
}

fn request(path: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method("POST").uri(format!("http://node.example/v1/default/web/{path}"));
    request.header("host", "node.example").body(body).unwrap_or_default()
}

async fn text(response: Response<Incoming>) -> Result<String> {
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?)
}

async fn problem(response: Response<Incoming>) -> Result<(u16, String)> {
    let status = response.status().as_u16();
    let problem: serde_json::Value = serde_json::from_str(&text(response).await?)?;
    let type_ = problem["type"].as_str().unwrap_or_default();
    Ok((status, type_.rsplit('/').next().unwrap_or_default().to_owned()))
}

/// Waits until `wanted` requests of the plugin run.
async fn running(server: &Server, wanted: u32) -> Result<()> {
    eventually(SOON, Duration::from_millis(5), async || {
        let running =
            server.metric(r#"samovar_agent_calls_running{namespace="default",plugin="web"}"#).await?;
        ensure!(running == u64::from(wanted), "{running} requests run, not {wanted}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_guest_sees_its_own_part_of_the_path_by_host_and_by_path() -> Result<()> {
    let server = serve("http-paths", "").await?;
    for mut caller in Caller::both(&server).await? {
        for (path, seen) in [
            ("a/head?q=%20", "Method::Post /a/head?q=%20 Some(Scheme::Http) node.example"),
            ("/head", "Method::Post //head Some(Scheme::Http) node.example"),
        ] {
            let answer = text(caller.get(path).await?).await?;
            assert_eq!(answer.lines().next(), Some(seen), "{path}");
        }
        let root =
            Request::builder().uri("http://node.example/v1/default/web?q").header("host", "node.example");
        assert_eq!(caller.send(root.body(Empty::new().boxed())?).await?.status(), StatusCode::OK);
        let answer = text(caller.by_host("web.default.svc", "/v1/default/web/head?q").await?).await?;
        assert!(
            answer.starts_with("Method::Get /v1/default/web/head?q Some(Scheme::Http) web.default.svc\n"),
            "{answer}"
        );
        assert_eq!(caller.by_host("web.default", "/nothing").await?.status(), StatusCode::NOT_FOUND);
    }
    Ok(())
}

#[tokio::test]
async fn hop_by_hop_fields_are_removed_and_all_others_forwarded() -> Result<()> {
    let server = serve("http-headers", "").await?;
    let address = server.url.strip_prefix("http://").context("it is http")?;
    let mut stream = TcpStream::connect(address).await?;
    let head = "GET /v1/default/web/head HTTP/1.0\r\nconnection: x-mine, close\r\nx-mine: 1\r\nte: gzip\r\n\
                x-theirs: 2\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, seen) = answer.split_once("\r\n\r\n").context("a head")?;
    let mut lines: Vec<_> = seen.lines().collect();
    lines.sort_unstable();
    // HTTP/1.0 names no host: the guest sees that of its plugin.
    let wanted = [
        "Method::Get /head Some(Scheme::Http) web.default",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-theirs: 2",
    ];
    assert_eq!(lines, wanted);
    Ok(())
}

#[tokio::test]
async fn both_bodies_are_streamed_concurrently() -> Result<()> {
    let server = serve("http-streams", ", limits: { timeout: 30s }").await?;
    for mut caller in Caller::both(&server).await? {
        let (send, receive) = mpsc::unbounded::<Bytes>();
        send.unbounded_send("one".into())?;
        let chunks = receive.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let body = BodyExt::boxed(StreamBody::new(chunks));
        let mut echoed = caller.send(request("echo", body)).await?.into_body();
        for word in ["one", "two", "three"] {
            if word != "one" {
                send.unbounded_send(word.into())?;
            }
            let frame = echoed.frame().await.context("an echo")??;
            assert_eq!(frame.data_ref().map(AsRef::as_ref), Some(word.as_bytes()));
        }
        drop(send);
        // HTTP/2 may end with an empty frame.
        assert_eq!(echoed.collect().await?.to_bytes(), "");
    }
    Ok(())
}

#[tokio::test]
async fn trailers_are_forwarded_both_ways() -> Result<()> {
    let server = serve("http-trailers", "").await?;
    for mut caller in Caller::both(&server).await? {
        let trailers = HeaderMap::from_iter([("x-sum".parse()?, HeaderValue::from_static("7"))]);
        let frames = [Frame::data(Bytes::from_static(b"abc")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut request = request("trailers", BodyExt::boxed(body));
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let two = matches!(caller, Caller::Two(..));
        let whole = caller.send(request).await?.into_body().collect().await?;
        let trailers = whole.trailers().cloned();
        assert_eq!(whole.to_bytes(), "body");
        // HTTP/1.1 sends only trailers that a `trailer` field announces, and this guest announces none.
        if two {
            let trailers = trailers.context("trailers")?;
            assert_eq!((&trailers["x-sum"], &trailers["x-from"]), (&"7".parse()?, &"guest".parse()?));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_failure_is_a_problem_before_the_head_and_breaks_the_body_after_it() -> Result<()> {
    let server =
        serve("http-fails", ", limits: { timeout: 500ms, requestBytes: 1Ki, responseBytes: 64Ki }").await?;
    for mut caller in Caller::both(&server).await? {
        for (path, status, type_) in [
            ("trap", 500, "trap"),
            ("silent", 500, "trap"),
            ("refuse", 502, "guest-error"),
            ("hang", 504, "timeout"),
            ("spin", 504, "timeout"),
        ] {
            assert_eq!(problem(caller.get(path).await?).await?, (status, type_.to_owned()), "{path}");
        }
        let large = Full::new(Bytes::from(vec![b'x'; 2000])).boxed();
        assert_eq!(
            problem(caller.send(request("count", large)).await?).await?,
            (413, "too-large".to_owned())
        );
    }
    for path in ["half?20", "slowly?60000", "stream?10000000"] {
        for mut caller in Caller::both(&server).await? {
            let begun = caller.get(path).await?;
            assert_eq!(begun.status(), StatusCode::OK);
            assert!(
                begun.into_body().collect().await.is_err(),
                "{path}: a truncated body passed for a complete one"
            );
        }
    }
    running(&server, 0).await
}

#[tokio::test]
async fn a_caller_that_disconnects_ends_its_guest() -> Result<()> {
    let server = serve("http-breaks", ", limits: { timeout: 10m }").await?;
    for path in ["hang", "slowly?600000"] {
        for mut caller in Caller::both(&server).await? {
            let begun = tokio::select! {
                begun = caller.get(path) => Some(begun?),
                ran = running(&server, 1) => ran.map(|()| None)?,
            };
            if begun.is_some() {
                running(&server, 1).await?;
            }
            caller.disconnect();
            // HTTP/2 keeps a connection while a response is being read.
            drop(begun);
            running(&server, 0).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_stalls_keeps_neither_guest_nor_memory() -> Result<()> {
    let server = serve("http-slow", ", limits: { timeout: 2s, responseBytes: 2Gi }").await?;
    let before = server.resident()?;
    let mut unread = Vec::new();
    for _ in 0..4 {
        for mut caller in Caller::both(&server).await? {
            let response = caller.get("stream?1000000000").await?;
            unread.push((caller, response));
        }
    }
    running(&server, 8).await?;
    let grown = server.resident()?.saturating_sub(before);
    assert!(grown < 32 << 10, "eight responses of a gigabyte took {grown} KiB");
    running(&server, 0).await
}

#[tokio::test]
async fn a_plugin_of_the_wrong_type_names_the_right_one() -> Result<()> {
    let folder = folder("http-kinds")?;
    fs::copy(file("tests/guests/http/http.wasm"), folder.join("http.wasm"))?;
    fs::copy(file("examples/text/text.wasm"), folder.join("text.wasm"))?;
    fs::write(folder.join("web.yaml"), plugin("web", "http.wasm", ""))?;
    fs::write(folder.join("text.yaml"), plugin("text", "text.wasm", "type: Http"))?;
    let server = Server::start(folder).await?;
    for (plugin, says) in [("web", "set `type: Http`"), ("text", "wasi:http/incoming-handler")] {
        let answer = server.call(plugin, "x", "").await?;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "not-ready"), "{answer:?}");
        assert!(answer.body.contains(says), "{answer:?}");
    }
    Ok(())
}
