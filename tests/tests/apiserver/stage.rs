//! The stage of a test: an operator, agents on nodes of their own, and a registry.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
pub use samovar_testbed::{ADD, MULTIPLY, condition, message};
use samovar_testbed::{
    AGENT_NAMESPACE, AgentPod, Cluster, ControlPlane, Process, Registry, free_port, scratch,
};
use serde_json::Value;
use tokio::sync::OnceCell;

/// The deadline for what takes a moment, on a machine that runs many tests at once.
pub const SOON: Duration = Duration::from_secs(30);

/// The namespace, registry and agents of one test.
pub struct Stage {
    stage: samovar_testbed::Stage,
    pub agents: Vec<Agent>,
}

impl Deref for Stage {
    type Target = samovar_testbed::Stage;

    fn deref(&self) -> &Self::Target {
        &self.stage
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.stage
    }
}

/// An agent as a process, and the Pod that stands for it.
pub struct Agent {
    pub pod: AgentPod,
    pub process: Process,
    pub url: String,
    pub ops: String,
}

impl Stage {
    /// A namespace, a registry, and this many nodes with an agent each. All tests share the operator.
    pub async fn new(name: &str, agents: usize) -> Result<Self> {
        Operator::shared().await?;
        Self::on(Cluster::new(name).await?, agents).await
    }

    /// The same in `cluster`, without an operator.
    pub async fn on(cluster: Cluster, agents: usize) -> Result<Self> {
        let spec = format!("nodeSelector: {{test: {}}}", cluster.namespace);
        let registry = Registry::start().await?;
        let stage = samovar_testbed::Stage { cluster, registry, spec, soon: SOON };
        let mut stage = Self { stage, agents: Vec::new() };
        for at in 0..agents {
            stage.add_agent(&format!("n{at}")).await?;
        }
        Ok(stage)
    }

    /// Adds a node with an agent.
    pub async fn add_agent(&mut self, node: &str) -> Result<()> {
        let node = self.cluster.node(node).await?;
        let pod = self.cluster.agent_pod(&node).await?;
        let kubeconfig = self.cluster.kubeconfig.clone();
        self.agents.push(Agent::start(pod, &kubeconfig).await?);
        Ok(())
    }

    /// The answer of each agent to `add [6, 7]`.
    pub async fn answers(&self, plugin: &str) -> Result<Vec<String>> {
        let mut answers = Vec::new();
        for agent in &self.agents {
            answers.push(agent.call(&self.cluster.namespace, plugin, "add", "[6, 7]").await?.1);
        }
        Ok(answers)
    }
}

impl Agent {
    /// Starts an agent and waits until it is ready.
    pub async fn start(pod: AgentPod, kubeconfig: &Path) -> Result<Self> {
        Self::start_with(pod, kubeconfig, &[]).await
    }

    /// The same, with more flags.
    pub async fn start_with(pod: AgentPod, kubeconfig: &Path, flags: &[String]) -> Result<Self> {
        let (url, ops) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let state = scratch().join(&pod.uid);
        let process = Process::samovar(
            "samovar-agent",
            [
                format!("--node-name={}", pod.node),
                format!("--pod-uid={}", pod.uid),
                format!("--listen={url}"),
                format!("--ops-listen={ops}"),
                format!("--state-dir={}", state.display()),
                // No kube-proxy has to learn here that it goes.
                "--drain-delay=1ms".to_owned(),
            ]
            .iter()
            .chain(flags),
            &[("KUBECONFIG", kubeconfig)],
        )?;
        let mut agent = Self { pod, process, url: format!("http://{url}"), ops: format!("http://{ops}") };
        agent.is_ready().await?;
        Ok(agent)
    }

    /// Kills it, starts it again, and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process.start_again()?;
        self.is_ready().await
    }

    async fn is_ready(&mut self) -> Result<()> {
        self.process.answers(&format!("{}/readyz", self.ops), SOON).await
    }

    /// Calls a function; returns the status and the body.
    pub async fn call(
        &self,
        namespace: &str,
        plugin: &str,
        function: &str,
        body: &str,
    ) -> Result<(u16, String)> {
        let url = format!("{}/v1/{namespace}/{plugin}/{function}", self.url);
        let answer =
            reqwest::Client::new().post(url).body(body.to_owned()).header("content-type", "application/json");
        let answer = answer.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Waits until a call answers `wanted`.
    pub async fn answers(
        &self,
        namespace: &str,
        plugin: &str,
        function: &str,
        body: &str,
        wanted: &str,
    ) -> Result<()> {
        let answers = async || {
            let answer = self.call(namespace, plugin, function, body).await;
            let is_so = matches!(&answer, Ok((200, answer)) if answer == wanted);
            ensure!(is_so, "{plugin}/{function} does not answer {wanted}: {answer:?}");
            Ok(())
        };
        eventually(answers).await
    }
}

/// An operator as a process.
pub struct Operator {
    pub process: Process,
    /// The URL at which agents request contents.
    pub url: String,
}

impl Operator {
    /// Starts an operator and waits until it is ready.
    pub async fn start(kubeconfig: &Path) -> Result<Self> {
        let ops = format!("127.0.0.1:{}", free_port()?);
        let contents = format!("127.0.0.1:{}", free_port()?);
        let mut process = Process::samovar(
            "samovar-operator",
            [
                format!("--agent-namespace={AGENT_NAMESPACE}"),
                // The ServiceAccount that every namespace has is that of the agents' Pods.
                "--agent-service-account=default".to_owned(),
                format!("--ops-listen={ops}"),
                format!("--contents-listen={contents}"),
                "--contents-host=127.0.0.1".to_owned(),
            ],
            &[("KUBECONFIG", kubeconfig)],
        )?;
        process.answers(&format!("http://{ops}/readyz"), SOON).await?;
        Ok(Self { process, url: format!("https://{contents}") })
    }

    /// The operator of the cluster that all tests share; it watches every namespace.
    pub async fn shared() -> Result<&'static Self> {
        static OPERATOR: OnceCell<Result<Operator, String>> = OnceCell::const_new();
        let start = || async {
            let shared = ControlPlane::shared().await.map_err(|error| format!("{error:?}"))?;
            Self::start(&shared.kubeconfig()).await.map_err(|error| format!("{error:?}"))
        };
        OPERATOR.get_or_init(start).await.as_ref().map_err(|error| anyhow!("{error}"))
    }
}

/// Repeats `attempt` until it succeeds; after [`SOON`] returns its last error.
pub async fn eventually<T>(attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    samovar_testbed::eventually(SOON, Duration::from_millis(20), attempt).await
}

/// Parses an answer as JSON.
pub fn json(body: &str) -> Result<Value> {
    serde_json::from_str(body).with_context(|| format!("{body} is no JSON"))
}
