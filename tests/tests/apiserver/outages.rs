//! Outages: agents serve from memory and from disk, and catch up afterwards.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use samovar_testbed::{AGENT_NAMESPACE, ApiProxy, Link, scratch};
use serde_json::{Value, json};

use crate::stage::{ADD, Agent, Stage, eventually};

#[tokio::test]
async fn a_killed_agent_serves_again_from_its_cache() -> Result<()> {
    let mut stage = Stage::new("killed", 1).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    // From here on nothing can be pulled.
    stage.registry.stop();
    stage.agents[0].restart().await?;
    let agent = &stage.agents[0];
    agent.answers(&stage.cluster.namespace, "math", "add", "[6, 7]", "13").await?;
    let metrics = reqwest::get(format!("{}/metrics", agent.ops)).await?.text().await?;
    assert!(metrics.contains("samovar_agent_artifact_cache_hits_total 1"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn an_agent_serves_and_restarts_without_the_api_server() -> Result<()> {
    let mut stage = Stage::new("apiless", 0).await?;
    let proxy = ApiProxy::start(&stage.cluster.kubeconfig).await?;
    let node = stage.cluster.node("n").await?;
    let pod = stage.cluster.agent_pod(&node).await?;
    assert_eq!(pod.namespace, AGENT_NAMESPACE);
    stage.agents.push(Agent::start(pod, proxy.kubeconfig()).await?);
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;

    proxy.set(Link::Refused);
    assert_eq!(stage.answers("math").await?, ["13"]);
    stage.agents[0].restart().await?;
    stage.agents[0].answers(&stage.cluster.namespace, "math", "add", "[6, 7]", "13").await?;

    // With the API server back, it gets what changed meanwhile.
    stage.apply("math", &stage.push("2", crate::stage::MULTIPLY).await?, "").await?;
    proxy.set(Link::Open);
    stage.agents[0].answers(&stage.cluster.namespace, "math", "add", "[6, 7]", "42").await
}

#[tokio::test]
async fn a_terminated_agent_finishes_its_calls_and_exits_with_success() -> Result<()> {
    let mut stage = Stage::new("drained", 1).await?;
    let slow = r#"(module (func (export "add") (param i32 i32) (result i32)
        (local $i i64) (local.set $i (i64.const 400000000))
        (loop (local.set $i (i64.sub (local.get $i) (i64.const 1))) (br_if 0 (i64.gt_s (local.get $i) (i64.const 0))))
        (i32.const 13)))"#;
    stage.apply("math", &stage.push("slow", slow).await?, "limits: {timeout: 20s}").await?;
    stage.all_ready("math").await?;
    let (namespace, ops) = (stage.cluster.namespace.clone(), stage.agents[0].ops.clone());
    let call = {
        let url = format!("{}/v1/{namespace}/math/add", stage.agents[0].url);
        tokio::spawn(
            async move { reqwest::Client::new().post(url).body("[6, 7]").send().await?.text().await },
        )
    };
    // The call runs once the agent has counted its connection.
    eventually(async || {
        let metrics = reqwest::get(format!("{ops}/metrics")).await?.text().await?;
        ensure!(metrics.contains("samovar_agent_connections 1"), "no connection is counted:\n{metrics}");
        Ok(())
    })
    .await?;
    let status = stage.agents[0].process.terminate(Duration::from_secs(30)).await?;
    assert!(status.success(), "{status}");
    assert_eq!(call.await??, "13");
    Ok(())
}

#[tokio::test]
async fn an_agent_without_rights_in_one_namespace_serves_the_others() -> Result<()> {
    let mut stage = Stage::new("watched", 0).await?;
    let own = stage.cluster.namespace.clone();
    for command in [
        "create serviceaccount agent",
        "create role agent --verb=get,list,watch,patch \
         --resource=pluginassignments.samovar.dev,pluginassignments.samovar.dev/status",
    ] {
        stage.cluster.kubectl(&command.split_whitespace().collect::<Vec<_>>()).await?;
    }
    let account = format!("--serviceaccount={own}:agent");
    stage.cluster.kubectl(&["create", "rolebinding", "agent", "--role=agent", &account]).await?;
    let token = stage.cluster.kubectl(&["create", "token", "agent"]).await?;
    let mut kubeconfig: Value = serde_json::from_slice(&fs::read(&stage.cluster.kubeconfig)?)?;
    kubeconfig["users"][0]["user"] = json!({ "token": token.trim() });
    let path = scratch().join(format!("{own}.kubeconfig"));
    fs::write(&path, serde_json::to_vec(&kubeconfig)?)?;

    let node = stage.cluster.node("n").await?;
    let pod = stage.cluster.agent_pod(&node).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    let watched = [own.as_str(), "kube-public"].map(|name| format!("--watch-namespace={name}"));
    stage.agents.push(Agent::start_with(pod, &path, &watched).await?);
    stage.all_ready("math").await?;
    assert_eq!(stage.answers("math").await?, ["13"]);
    assert!(stage.agents[0].process.log().contains("refuses access to assignments"));
    Ok(())
}
