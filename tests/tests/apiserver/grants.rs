//! Values of ConfigMaps and Secrets reach the guests whose policy names them, and nobody else.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::ConfigMap};
use kube::{Api, ResourceExt as _, api::ListParams};
use samovar_crds::PluginAssignment;
use samovar_testbed::{AGENT_NAMESPACE, AgentPod, Cluster, ControlPlane, jwt, scratch};
use serde_json::{Value, json};

use crate::stage::{ADD, Agent, Operator, Stage, eventually, message};

/// The value of a Secret, which no object, log or file may contain.
const CANARY: &str = "canary-8f2d61";
/// A guest that returns its environment and reads files.
const WASI: &[u8] = include_bytes!("../../guests/wasi/wasi.wasm");
/// A variable from each kind of source, and an optional one.
const POLICY: &str = "securityPolicy: {env: [
    {name: PLAIN, value: here},
    {name: LOCALE, valueFrom: {configMapKeyRef: {name: words, key: locale}}},
    {name: TOKEN, valueFrom: {secretKeyRef: {name: api, key: token}}},
    {name: ABSENT, valueFrom: {secretKeyRef: {name: nowhere, key: none, optional: true}}}]}";

/// A stage whose agents request contents from the operator.
pub async fn stage(name: &str, agents: usize) -> Result<Stage> {
    let operator = Operator::shared().await?;
    let mut stage = Stage::new(name, 0).await?;
    for at in 0..agents {
        add_agent(&mut stage, &format!("n{at}"), &operator.url).await?;
    }
    Ok(stage)
}

async fn add_agent(stage: &mut Stage, node: &str, operator: &str) -> Result<()> {
    let node = stage.cluster.node(node).await?;
    let pod = stage.cluster.agent_pod(&node).await?;
    // As the kubelet mounts them.
    let (ca, own) = (scratch().join(format!("{}.ca", pod.uid)), scratch().join(format!("{}.token", pod.uid)));
    fs::write(&ca, authority(&stage.cluster).await?)?;
    fs::write(&own, token(&stage.cluster, "samovar-operator", Some(&pod)).await?)?;
    let flags = [
        format!("--operator-url={operator}"),
        format!("--operator-ca={}", ca.display()),
        format!("--operator-token={}", own.display()),
    ];
    stage.agents.push(Agent::start_with(pod, &stage.cluster.kubeconfig, &flags).await?);
    Ok(())
}

/// The operator's CA certificate, once it is published.
async fn authority(cluster: &Cluster) -> Result<String> {
    let config_maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), AGENT_NAMESPACE);
    eventually(async || {
        let mut published = config_maps.get("samovar-operator-ca").await?.data.unwrap_or_default();
        published.remove("ca.crt").context("the operator publishes no CA certificate")
    })
    .await
}

/// A token of the agents' ServiceAccount.
async fn token(cluster: &Cluster, audience: &str, pod: Option<&AgentPod>) -> Result<String> {
    let mut arguments =
        vec!["create", "token", "default", "--namespace", AGENT_NAMESPACE, "--audience", audience];
    if let Some(pod) = pod {
        arguments.extend(["--bound-object-kind=Pod", "--bound-object-name", &pod.name]);
        arguments.extend(["--bound-object-uid", &pod.uid]);
    }
    Ok(cluster.kubectl(&arguments).await?.trim().to_owned())
}

impl Stage {
    async fn apply_wasi(&self, name: &str, policy: &str) -> Result<()> {
        self.apply(name, &self.push_wasm("wasi", WASI).await?, policy).await
    }

    pub async fn config_map(&self, locale: &str) -> Result<()> {
        let yaml = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: words}}, data: {{locale: {locale}}}}}"
        );
        self.cluster.apply(&yaml).await.map(drop)
    }

    pub async fn secret(&self, token: &str) -> Result<()> {
        let yaml = format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: api}}, stringData: {{token: {token}}}}}"
        );
        self.cluster.apply(&yaml).await.map(drop)
    }

    /// Waits until the guest of this agent has the environment `wanted`.
    async fn has_environment(&self, agent: usize, wanted: &Value) -> Result<()> {
        let namespace = &self.cluster.namespace;
        self.agents[agent].answers(namespace, "wasi", "environment", "[]", &wanted.to_string()).await
    }
}

fn environment(locale: &str, token: &str) -> Value {
    json!([["PLAIN", "here"], ["LOCALE", locale], ["TOKEN", token]])
}

#[tokio::test]
async fn values_reach_the_guest_and_no_object_log_or_file_holds_a_secret() -> Result<()> {
    let stage = stage("granted", 2).await?;
    stage.config_map("en").await?;
    stage.secret(CANARY).await?;
    stage.apply_wasi("wasi", POLICY).await?;
    stage.all_ready("wasi").await?;
    for agent in [0, 1] {
        stage.has_environment(agent, &environment("en", CANARY)).await?;
    }

    let all = ListParams::default();
    let (assignments, revisions) = (
        stage.cluster.api::<PluginAssignment>().list(&all).await?,
        stage.cluster.api::<ControllerRevision>().list(&all).await?,
    );
    ensure!(assignments.items.len() == 2 && revisions.items.len() == 1);
    let objects = serde_json::to_string(&assignments)? + &serde_json::to_string(&revisions)?;
    ensure!(objects.contains("TOKEN") && !leaks(objects.as_bytes()), "{objects}");
    let operator = Operator::shared().await?;
    ensure!(!leaks(operator.process.log().as_bytes()), "the operator logs a secret");
    for agent in &stage.agents {
        ensure!(!leaks(agent.process.log().as_bytes()), "an agent logs a secret");
        let kept = files(&scratch().join(&agent.pod.uid))?;
        ensure!(kept.iter().any(|(name, _)| name.contains("assignments-")), "there is no checkpoint");
        for (name, content) in kept {
            ensure!(!leaks(&content), "{name} contains a secret");
        }
    }
    Ok(())
}

/// True if the bytes contain the canary, or its base64, in which the API server returns it.
fn leaks(bytes: &[u8]) -> bool {
    // Its base64, without the end, which depends on the bytes that follow.
    [CANARY.as_bytes(), b"Y2FuYXJ5LThmMmQ2"]
        .iter()
        .any(|canary| bytes.windows(canary.len()).any(|part| part == *canary))
}

fn files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_changed_configmap_or_secret_is_a_new_revision_on_every_node() -> Result<()> {
    let stage = stage("moved", 2).await?;
    stage.config_map("en").await?;
    stage.secret("one").await?;
    stage.apply_wasi("wasi", POLICY).await?;
    let revision = |plugin: samovar_crds::WasmPlugin| plugin.status.and_then(|status| status.revision);
    let first = revision(stage.all_ready("wasi").await?);
    stage.secret("two").await?;
    for agent in [0, 1] {
        stage.has_environment(agent, &environment("en", "two")).await?;
    }
    let second = revision(stage.all_ready("wasi").await?);
    ensure!(first != second, "{first:?}");
    stage.config_map("de").await?;
    for agent in [0, 1] {
        stage.has_environment(agent, &environment("de", "two")).await?;
    }
    // The old value has its old revision; an object that no policy names changes nothing.
    stage.config_map("en").await?;
    stage
        .cluster
        .apply("{apiVersion: v1, kind: Secret, metadata: {name: other}, stringData: {token: three}}")
        .await?;
    for agent in [0, 1] {
        stage.has_environment(agent, &environment("en", "two")).await?;
    }
    ensure!(revision(stage.all_ready("wasi").await?) == second);
    Ok(())
}

#[tokio::test]
async fn only_the_assigned_agent_gets_contents_from_the_operator() -> Result<()> {
    let stage = stage("asked", 2).await?;
    stage.config_map("en").await?;
    stage.secret(CANARY).await?;
    stage.apply_wasi("wasi", POLICY).await?;
    stage.all_ready("wasi").await?;
    let [own, other] = [&stage.agents[0].pod, &stage.agents[1].pod];
    let assignments = stage.cluster.api::<PluginAssignment>().list(&ListParams::default()).await?;
    let assignment =
        assignments.iter().find(|it| it.spec.agent.pod_uid == own.uid).context("its own")?.name_any();

    let cluster = &stage.cluster;
    let ask = async |token: &str, namespace: &str, name: &str| {
        let authority = reqwest::Certificate::from_pem(authority(cluster).await?.as_bytes())?;
        let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build()?;
        let url = format!("{}/v1/contents/{namespace}/{name}", Operator::shared().await?.url);
        let answer = client.get(url).bearer_auth(token).send().await?;
        anyhow::Ok((answer.status().as_u16(), answer.text().await?))
    };
    let namespace = cluster.namespace.as_str();
    let good = token(cluster, "samovar-operator", Some(own)).await?;
    let (status, answer) = ask(&good, namespace, &assignment).await?;
    ensure!((status, answer.contains(CANARY)) == (200, true), "{status} {answer}");
    ensure!(!answer.contains("locale"), "the answer has more than the policy names: {answer}");

    // A second Pod of the agents' ServiceAccount on that node, as during a rolling update of the DaemonSet.
    let twin = cluster.agent_pod(&own.node).await?;
    let fresh = signed_again(cluster, &good, 600)?;
    ensure!(
        ask(&fresh, namespace, &assignment).await?.0 == 200,
        "the test does not sign as the API server does"
    );
    for (who, token, wanted) in [
        ("another node's agent", token(cluster, "samovar-operator", Some(other)).await?, 403),
        ("another Pod of the node", token(cluster, "samovar-operator", Some(&twin)).await?, 403),
        ("the ServiceAccount without a Pod", token(cluster, "samovar-operator", None).await?, 401),
        ("a token for another audience", token(cluster, "somebody-else", Some(own)).await?, 401),
        (
            "a token of the API server's own audience",
            token(cluster, "https://kubernetes.default.svc.cluster.local", Some(own)).await?,
            401,
        ),
        ("a token that has expired", signed_again(cluster, &good, -60)?, 401),
        ("no token", String::new(), 401),
        ("a malformed token", "a.b.c".to_owned(), 401),
    ] {
        let (status, answer) = ask(&token, namespace, &assignment).await?;
        ensure!(status == wanted, "{who}: {status} {answer}");
        ensure!(!answer.contains(CANARY), "{who} gets the secret");
    }
    for (namespace, name) in
        [("default", assignment.as_str()), (namespace, "nothing"), ("..", "a"), (namespace, "%2e%2e%2fa")]
    {
        ensure!(ask(&good, namespace, name).await?.0 >= 400, "{namespace}/{name}");
    }
    // The contents of this revision exist no more: the agent is to run the next one.
    cluster
        .kubectl(&["patch", "wplug", "wasi", "--type=merge", "-p", r#"{"spec": {"paused": true}}"#])
        .await?;
    stage.secret("moved").await?;
    let (status, answer) = ask(&good, namespace, &assignment).await?;
    ensure!((status, answer.contains("moved")) == (409, false), "{status} {answer}");
    Ok(())
}

/// The token with another expiry, signed with the API server's key.
fn signed_again(cluster: &Cluster, token: &str, seconds: i64) -> Result<String> {
    let mut claims = jwt::claims(token)?;
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
    (claims["exp"], claims["iat"], claims["nbf"]) =
        (json!(now + seconds), json!(now - 3600), json!(now - 3600));
    let key = cluster.kubeconfig.with_file_name("service-account.key");
    jwt::signed_again(token, &claims, &fs::read_to_string(key)?)
}

#[tokio::test]
async fn a_missing_secret_is_named_and_the_old_revision_serves_until_it_exists() -> Result<()> {
    let stage = stage("missing", 1).await?;
    stage.config_map("en").await?;
    stage.apply_wasi("wasi", POLICY).await?;
    let plugin = stage.ready("wasi", "False", "SecretUnavailable").await?;
    ensure!(message(&plugin).contains("Secret `api` does not exist"), "{}", message(&plugin));
    stage
        .cluster
        .apply(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: api}}, stringData: {{other: {CANARY}}}}}"
        ))
        .await?;
    eventually(async || {
        let plugin = stage.ready("wasi", "False", "SecretUnavailable").await?;
        ensure!(message(&plugin).contains("no key `token`"), "{}", message(&plugin));
        Ok(())
    })
    .await?;
    stage.secret("one").await?;
    stage.all_ready("wasi").await?;
    stage.has_environment(0, &environment("en", "one")).await?;

    stage.cluster.kubectl(&["delete", "secret", "api"]).await?;
    stage.ready("wasi", "False", "SecretUnavailable").await?;
    stage.has_environment(0, &environment("en", "one")).await?;
    stage.secret("two").await?;
    stage.has_environment(0, &environment("en", "two")).await
}

#[tokio::test]
async fn without_an_operator_a_restarted_agent_lacks_only_plugins_with_secrets() -> Result<()> {
    let own = Arc::new(ControlPlane::start().await?);
    let mut operator = Operator::start(&own.kubeconfig()).await?;
    let mut stage = Stage::on(Cluster::on(own, "alone").await?, 0).await?;
    add_agent(&mut stage, "n", &operator.url).await?;
    stage.config_map("en").await?;
    stage.secret("one").await?;
    stage.apply_wasi("wasi", POLICY).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    let namespace = stage.cluster.namespace.clone();
    stage.has_environment(0, &environment("en", "one")).await?;
    stage.agents[0].answers(&namespace, "math", "add", "[6, 7]", "13").await?;

    operator.process.kill();
    stage.has_environment(0, &environment("en", "one")).await?;
    stage.agents[0].restart().await?;
    let agent = &stage.agents[0];
    agent.answers(&namespace, "math", "add", "[6, 7]", "13").await?;
    let (status, answer) = agent.call(&namespace, "wasi", "environment", "[]").await?;
    ensure!(status == 503 && answer.contains("SecretUnavailable"), "{status} {answer}");
    operator.process.start_again()?;
    stage.has_environment(0, &environment("en", "one")).await
}
