//! An agent on ports of its own, its callers, and waits with deadlines.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{RequestBuilder, Response, StatusCode, header};
use samovar_crds::State;
use samovar_node_agent::{
    Agent, AgentOptions, Desired, DesiredRevision, Key, Report, Source, options::Bounds,
};
use samovar_registry::ClientOptions;
use samovar_runtime::{Compiler, ModuleDigest, NetworkOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

/// The deadline of each wait.
const DEADLINE: Duration = Duration::from_mins(1);

/// A plugin's name, its module, and its spec beside the image.
pub type Plugin<'a> = (&'a str, Vec<u8>, Value);

/// A running agent, and its desired state.
pub struct Served {
    pub client: reqwest::Client,
    agent: Agent,
    desired: watch::Sender<Desired>,
    state: TempDir,
}

/// The bytes of a module in `tests/guests`.
pub fn guest(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests").join(name);
    wat::parse_file(path).unwrap()
}

/// An answer's status and its problem.
pub async fn problem(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
    (status, answer.json().await.unwrap())
}

/// Options with free ports, and few instances.
pub fn options(state: &Path) -> AgentOptions {
    AgentOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        ops_listen: ([127, 0, 0, 1], 0).into(),
        state_dir: state.to_owned(),
        registry: ClientOptions::default(),
        operator: None,
        max_compiles: 2,
        max_instances: 50,
        bounds: Bounds {
            memory_budget: None,
            cache_size: "4Gi".parse().unwrap(),
            compile_timeout: "1m".parse().unwrap(),
            compile_memory: "4Gi".parse().unwrap(),
        },
        network: NetworkOptions::default(),
        compiler: Compiler::InProcess,
        drain_deadline: Duration::from_secs(25),
    }
}

/// Waits until `holds`.
pub async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "waited in vain: {what}");
}

fn key(plugin: &str, number: i64) -> Key {
    Key { namespace: "demo".into(), plugin: plugin.into(), revision: format!("{plugin}-{number}") }
}

fn revision(plugin: &str, number: i64, module: Vec<u8>, mut spec: Value) -> (Key, Arc<DesiredRevision>) {
    spec["image"] = "file:module.wasm".into();
    let key = key(plugin, number);
    let source = Source::Module { digest: ModuleDigest::of(&module), bytes: module.into() };
    let template = serde_json::from_value(spec).unwrap();
    let revision =
        DesiredRevision { revision: key.revision.clone(), number, source, template, contents: None };
    (key, Arc::new(revision))
}

impl Served {
    /// An agent whose plugins are ready, or have failed.
    pub async fn start(plugins: &[Plugin<'_>]) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), plugins).await
    }

    async fn start_on(state: TempDir, plugins: &[Plugin<'_>]) -> Self {
        // As the program's `main` does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let all = plugins.iter().map(|(name, module, spec)| revision(name, 1, module.clone(), spec.clone()));
        let (desired, receiver) = watch::channel(all.collect());
        let agent = Agent::start(options(state.path()), receiver).unwrap();
        let served = Self { client: reqwest::Client::new(), agent, desired, state };
        for (name, ..) in plugins {
            served.settled(name, 1).await;
        }
        served
    }

    /// Shuts this agent down, and starts another on the same disk.
    pub async fn restarted(self, plugins: &[Plugin<'_>]) -> Self {
        let Self { agent, state, .. } = self;
        agent.shutdown().await;
        Self::start_on(state, plugins).await
    }

    pub async fn shutdown(self) {
        self.agent.shutdown().await;
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub fn add(&self, plugin: &str, number: i64, module: Vec<u8>, spec: Value) {
        let (key, revision) = revision(plugin, number, module, spec);
        self.desired.send_modify(|desired| {
            desired.insert(key, revision);
        });
    }

    pub fn remove(&self, plugin: &str, number: i64) {
        self.desired.send_modify(|desired| {
            desired.remove(&key(plugin, number));
        });
    }

    /// The report of a revision that is ready or has failed.
    pub async fn settled(&self, plugin: &str, number: i64) -> Report {
        let key = key(plugin, number);
        let is_settled = |report: &Report| matches!(report.state, State::Ready | State::Failed);
        let mut changed = self.agent.reports().subscribe();
        let settles = async {
            loop {
                if let Some(report) = self.agent.reports().report(&key).filter(is_settled) {
                    return report;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, settles).await.unwrap_or_else(|_| panic!("{key} does not settle"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.agent.address)
    }

    pub fn ops_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.agent.ops_address)
    }

    pub async fn ops(&self, path: &str) -> Response {
        self.client.get(self.ops_url(path)).send().await.unwrap()
    }

    pub async fn metrics(&self) -> String {
        self.ops("/metrics").await.text().await.unwrap()
    }

    /// Waits until the metrics have a line.
    pub async fn until_metric(&self, line: &str) {
        until(line, || async { self.metrics().await.lines().any(|has| has == line) }).await;
    }

    pub async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) {
        until(what, holds).await;
    }

    pub fn request(&self, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client.post(self.url(path)).header(header::CONTENT_TYPE, "application/json").body(body)
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(path, body).send().await.unwrap()
    }

    /// A call over HTTP/2 by prior knowledge; the URI's host is its `:authority`.
    pub async fn http2(&self, uri: &str, body: &'static str) -> (StatusCode, Vec<u8>) {
        let stream = tokio::net::TcpStream::connect(self.agent.address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::post(uri).body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        (status, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    }
}
