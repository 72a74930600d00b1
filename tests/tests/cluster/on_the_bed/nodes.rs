//! Nodes that are drained, cordoned, tainted, deleted, powered off, disconnected or hung, and that return or join.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    runtime::wait::{await_condition, conditions::is_pod_running},
};
use tokio::time::timeout;

use crate::stage::{ADD, Alone, SOON, SYSTEM, eventually, message};

/// In the bed, a dead node loses its Ready condition after 10 s.
const NODE_LOST: Duration = Duration::from_secs(30);

/// Calls a plugin without a pause until SIGTERM, with one retry for each call.
const CALLER: &str = r"
trap 'exit 0' TERM
while :; do
  curl -s -o /dev/null -w '%{http_code}\n' --connect-timeout 1 --max-time 2 --retry 1 --retry-all-errors \
    --retry-delay 0 -H content-type:application/json -d '[6,7]' URL || echo failed
done
";

/// A plugin that serves on its nodes, and a Pod on node1 that calls it without a pause.
async fn called(name: &str, more: &str) -> Result<Alone> {
    let stage = Alone::new_alone(name).await?;
    stage.apply("add", &stage.push("1", ADD).await?, more).await?;
    stage.all_ready("add").await?;
    let url = format!("http://add.{}.svc/add", stage.cluster.namespace);
    stage.client_that("caller", Some("node1"), &CALLER.replace("URL", &url)).await?;
    let pods: Api<Pod> = stage.cluster.api();
    timeout(SOON, await_condition(pods, "caller", is_pod_running())).await??;
    calls_past(&stage, 0).await?;
    Ok(stage)
}

/// The number of the caller's calls so far, and of those that failed twice.
async fn calls(stage: &Alone) -> Result<(usize, usize)> {
    let log = stage.cluster.kubectl(&["logs", "caller"]).await?;
    Ok((log.lines().count(), log.lines().filter(|line| *line != "200").count()))
}

/// The same, once there are more than 20 calls beyond `count`.
async fn calls_past(stage: &Alone, count: usize) -> Result<(usize, usize)> {
    eventually(async || {
        let (all, failed) = calls(stage).await?;
        ensure!(all > count + 20, "too few calls yet: {all}");
        Ok((all, failed))
    })
    .await
}

/// Checks that no call failed twice until now, nor one of the next 20.
async fn no_call_failed(stage: &Alone) -> Result<()> {
    let (all, failed) = calls_past(stage, calls(stage).await?.0).await?;
    ensure!(failed == 0, "{failed} of {all} calls failed twice");
    Ok(())
}

/// The nodes of the ready endpoints in the namespace's EndpointSlices.
async fn endpoints(stage: &Alone) -> Result<Vec<String>> {
    let path = "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName}{\"\\n\"}{end}";
    let slices = stage.cluster.kubectl(&["get", "endpointslices", "-o", path]).await?;
    let mut nodes: Vec<_> = slices.lines().map(ToOwned::to_owned).collect();
    nodes.sort();
    Ok(nodes)
}

async fn endpoints_are(stage: &Alone, wanted: &[&str]) -> Result<Duration> {
    let began = Instant::now();
    let are = async || {
        let nodes = endpoints(stage).await?;
        ensure!(nodes == wanted, "calls go to {nodes:?}, not to {wanted:?}");
        Ok(())
    };
    eventually(are).await?;
    Ok(began.elapsed())
}

#[tokio::test]
async fn draining_cordoning_and_tainting_a_node_fails_no_call() -> Result<()> {
    let stage = called("drained", "").await?;
    let kubectl = async |command: &str| stage.cluster.kubectl(&command.split(' ').collect::<Vec<_>>()).await;

    // A drain ignores the Pods of DaemonSets, and so the plugins on agents: they keep serving on a cordoned node.
    kubectl("drain node2 --ignore-daemonsets --delete-emptydir-data --force --timeout=60s").await?;
    ensure!(endpoints(&stage).await? == ["node1", "node2", "node3"]);
    // A new plugin is not placed on a cordoned node.
    stage.apply("later", &stage.push("1", ADD).await?, "").await?;
    stage.on_nodes("later", 2, 2, SOON).await?;
    kubectl("uncordon node2").await?;
    stage.on_nodes("later", 3, 3, SOON).await?;

    // A taint that a plugin does not tolerate removes it from the node, although the agent stays.
    kubectl("taint node node2 reserved=yes:NoSchedule").await?;
    stage.on_nodes("add", 2, 2, SOON).await?;
    both_leave_node2(&stage).await?;
    kubectl("taint node node2 reserved-").await?;
    stage.on_nodes("add", 3, 3, SOON).await?;

    no_call_failed(&stage).await
}

/// Neither plugin tolerates the taint: both leave node2.
async fn both_leave_node2(stage: &Alone) -> Result<()> {
    endpoints_are(stage, &["node1", "node1", "node3", "node3"]).await.map(drop)
}

#[tokio::test]
async fn a_rolling_restart_of_the_agents_fails_no_call() -> Result<()> {
    let stage = called("replaced", "").await?;
    let restart = ["rollout", "restart", "--namespace", SYSTEM, "daemonset/samovar-agent"];
    stage.cluster.kubectl(&restart).await?;
    let status = ["rollout", "status", "--namespace", SYSTEM, "daemonset/samovar-agent", "--timeout=120s"];
    stage.cluster.kubectl(&status).await?;
    endpoints_are(&stage, &["node1", "node2", "node3"]).await?;
    stage.all_ready("add").await?;
    no_call_failed(&stage).await
}

#[tokio::test]
async fn a_node_without_power_is_replaced_and_serves_again_after_boot() -> Result<()> {
    let mut stage = called("powerless", "replicas: 2").await?;
    let before = endpoints(&stage).await?;
    let lost = before.iter().find(|node| *node != "node1").context("two nodes serve it")?.clone();

    stage.world.bed()?.power_off(&lost).await?;
    let began = Instant::now();
    let left = async || {
        let nodes = endpoints(&stage).await?;
        ensure!(nodes.len() == 2 && !nodes.contains(&lost), "calls go to {nodes:?}");
        Ok(())
    };
    eventually(left).await?;
    println!("figure: power off to the replica on another node: {:.1} s", began.elapsed().as_secs_f32());
    let plugin = stage.on_nodes("add", 2, 2, SOON).await?;
    ensure!(message(&plugin).contains('2'), "{}", message(&plugin));
    let (sent, failed) = calls(&stage).await?;
    // One of two nodes is dead: one call in four fails twice.
    ensure!(failed <= sent / 2 + 2, "{failed} of {sent} calls failed twice");
    println!("figure: calls that failed twice until a node without power was NotReady: {failed} of {sent}");
    // A call in progress may still try that node, for up to 2 s. Later ones are not sent there.
    let (before, failed_before) = calls_past(&stage, sent).await?;
    let (_, failed_after) = calls_past(&stage, before).await?;
    ensure!(
        failed_after == failed_before,
        "{} calls failed after the node's endpoint was gone",
        failed_after - failed_before
    );

    stage.world.bed()?.power_on(&lost).await?;
    let client = stage.cluster.client.clone();
    stage.world.bed()?.node(&lost)?.ready(&client, true, NODE_LOST).await?;
    stage.cluster.kubectl(&["scale", "wplug/add", "--replicas=3"]).await?;
    stage.on_nodes("add", 3, 3, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_node_has_no_endpoint_until_it_registers_again() -> Result<()> {
    let mut stage = called("deleted", "").await?;
    stage.cluster.kubectl(&["delete", "node", "node3"]).await?;
    endpoints_are(&stage, &["node1", "node2"]).await?;
    stage.on_nodes("add", 2, 2, SOON).await?;
    // A kubelet registers its node when it starts.
    stage.world.bed()?.node("node3")?.stop_kubelet();
    stage.world.bed()?.restart_kubelet("node3").await?;
    endpoints_are(&stage, &["node1", "node2", "node3"]).await?;
    no_call_failed(&stage).await
}

#[tokio::test]
async fn a_disconnected_node_has_no_endpoint_until_it_reconnects() -> Result<()> {
    let mut stage = called("cut-off", "").await?;
    let agent = stage.agent_on("node3").await?.name_any();
    stage.world.bed()?.set_connected("node3", false)?;
    let client = stage.cluster.client.clone();
    stage.world.bed()?.node("node3")?.ready(&client, false, NODE_LOST).await?;
    endpoints_are(&stage, &["node1", "node2"]).await?;
    let plugin = stage.on_nodes("add", 2, 2, SOON).await?;
    ensure!(message(&plugin).contains('2'), "{}", message(&plugin));
    stage.world.bed()?.set_connected("node3", true)?;
    stage.world.bed()?.node("node3")?.ready(&client, true, NODE_LOST).await?;
    endpoints_are(&stage, &["node1", "node2", "node3"]).await?;
    ensure!(stage.agent_on("node3").await?.name_any() == agent, "the agent was replaced");
    Ok(())
}

#[tokio::test]
async fn a_hung_node_has_no_endpoint_until_it_resumes() -> Result<()> {
    let mut stage = called("hung", "").await?;
    stage.world.bed()?.node("node3")?.pause()?;
    let client = stage.cluster.client.clone();
    stage.world.bed()?.node("node3")?.ready(&client, false, NODE_LOST).await?;
    endpoints_are(&stage, &["node1", "node2"]).await?;
    stage.world.bed()?.node("node3")?.resume()?;
    stage.world.bed()?.node("node3")?.ready(&client, true, NODE_LOST).await?;
    endpoints_are(&stage, &["node1", "node2", "node3"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_agent_is_replaced_and_fails_no_call() -> Result<()> {
    let stage = called("killed", "").await?;
    let agent = stage.agent_on("node2").await?.name_any();
    stage
        .cluster
        .kubectl(&["delete", "pod", "--namespace", SYSTEM, &agent, "--grace-period=0", "--force"])
        .await?;
    let another = async || {
        let next = stage.agent_on("node2").await?.name_any();
        ensure!(next != agent, "{agent} is still there");
        Ok(())
    };
    eventually(another).await?;
    endpoints_are(&stage, &["node1", "node2", "node3"]).await?;
    no_call_failed(&stage).await
}

#[tokio::test]
async fn a_new_node_serves_within_5_s_of_its_agents_readiness() -> Result<()> {
    let mut stage = called("joined", "").await?;
    let node = stage.world.bed()?.add_node().await?;
    let agent_is_ready = async || {
        let agent = stage.agent_on(&node).await?;
        let conditions = agent.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready =
            conditions.into_iter().find(|condition| condition.type_ == "Ready" && condition.status == "True");
        ready.and_then(|ready| ready.last_transition_time).context("the agent is not ready yet")
    };
    let ready_at = eventually(agent_is_ready).await?.0;
    stage.on_nodes("add", 4, 4, Duration::from_secs(10)).await?;
    endpoints_are(&stage, &["node1", "node2", "node3", &node]).await?;
    let took = k8s_openapi::jiff::Timestamp::now().duration_since(ready_at);
    println!("figure: agent ready to plugin served by a new node: at most {:.1} s", took.as_secs_f32());
    ensure!(took.as_secs_f32() < 5.0 + 1.0, "it took {took:?}, and a timestamp is up to 1 s old");

    stage.world.bed()?.power_off(&node).await?;
    stage.cluster.kubectl(&["delete", "node", &node]).await?;
    endpoints_are(&stage, &["node1", "node2", "node3"]).await?;
    stage.on_nodes("add", 3, 3, SOON).await?;
    stage.world.bed()?.remove_node(&node);
    Ok(())
}
