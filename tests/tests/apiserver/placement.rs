//! Placement: the nodes of a plugin's replicas, its endpoints, and its status.

use anyhow::{Result, ensure};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use kube::api::ListParams;
use samovar_crds::PluginAssignment;
use samovar_testbed::AgentPod;

use crate::stage::{ADD, SOON, Stage, eventually};

async fn nodes_of(stage: &Stage) -> Result<Vec<String>> {
    let assignments = stage.cluster.api::<PluginAssignment>().list(&ListParams::default()).await?;
    let mut nodes: Vec<_> =
        assignments.items.into_iter().map(|assignment| assignment.spec.node_name).collect();
    nodes.sort();
    Ok(nodes)
}

/// Waits until the endpoint of `ready` is ready, and that of `last_resort` serving and terminating: kube-proxy sends
/// calls there only while no other is ready.
async fn endpoints_are(stage: &Stage, ready: &AgentPod, last_resort: &AgentPod) -> Result<()> {
    let mut wanted = [(ready.ip.clone(), [true, true, false]), (last_resort.ip.clone(), [false, true, true])];
    wanted.sort();
    let is_so = |slice: &EndpointSlice| {
        let mut endpoints: Vec<_> = slice
            .endpoints
            .iter()
            .map(|endpoint| {
                let EndpointConditions { ready, serving, terminating } =
                    endpoint.conditions.clone().unwrap_or_default();
                (endpoint.addresses.join(" "), [ready, serving, terminating].map(Option::unwrap_or_default))
            })
            .collect();
        endpoints.sort();
        endpoints == wanted
    };
    stage.cluster.wait_for("math-ipv4-8080-0", SOON, is_so).await.map(drop)
}

#[tokio::test]
async fn scaling_changes_the_number_of_nodes() -> Result<()> {
    let stage = Stage::new("scaled", 3).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "replicas: 1").await?;
    stage.all_ready("math").await?;
    let one = nodes_of(&stage).await?;
    assert_eq!(one.len(), 1);
    stage.cluster.kubectl(&["scale", "wplug", "math", "--replicas=3"]).await?;
    let plugin = stage.all_ready("math").await?;
    assert_eq!(
        plugin.status.and_then(|status| status.nodes).map(|nodes| nodes.summary),
        Some("3/3".to_owned())
    );
    assert!(nodes_of(&stage).await?.contains(&one[0]));
    stage.cluster.kubectl(&["scale", "wplug", "math", "--replicas=0"]).await?;
    stage.ready("math", "False", "ScaledToZero").await?;
    assert!(nodes_of(&stage).await?.is_empty());
    stage.cluster.kubectl(&["scale", "wplug", "math", "--replicas=4"]).await?;
    stage.ready("math", "False", "NoMatchingNode").await?;
    Ok(())
}

#[tokio::test]
async fn the_replica_of_a_not_ready_node_moves_to_another() -> Result<()> {
    let stage = Stage::new("moves", 2).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "replicas: 1").await?;
    stage.all_ready("math").await?;
    let before = nodes_of(&stage).await?;
    stage.cluster.set_node_ready(&before[0], false).await?;
    let other = stage.agents.iter().find(|agent| agent.pod.node != before[0]).expect("there are two");
    other.answers(&stage.cluster.namespace, "math", "add", "[6, 7]", "13").await?;
    stage.all_ready("math").await?;
    let lost = stage.agents.iter().find(|agent| agent.pod.node == before[0]).expect("it is one of them");
    endpoints_are(&stage, &other.pod, &lost.pod).await?;
    // With both nodes Ready, one replica is left.
    stage.cluster.set_node_ready(&before[0], true).await?;
    let one = async || {
        let nodes = nodes_of(&stage).await?;
        ensure!(nodes.len() == 1, "it is on {nodes:?}");
        Ok(())
    };
    eventually(one).await?;
    stage.all_ready("math").await.map(drop)
}

#[tokio::test]
async fn a_new_node_serves_the_plugins_of_all_nodes() -> Result<()> {
    let mut stage = Stage::new("joins", 1).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    stage.add_agent("late").await?;
    stage.agents[1].answers(&stage.cluster.namespace, "math", "add", "[6, 7]", "13").await?;
    stage.on_nodes("math", 2, 2, SOON).await.map(drop)
}

#[tokio::test]
async fn an_agent_that_is_not_ready_is_an_endpoint_of_last_resort() -> Result<()> {
    let stage = Stage::new("silent", 2).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    let (silent, other) = (&stage.agents[0].pod, &stage.agents[1].pod);
    stage.cluster.set_agent_ready(silent, false).await?;
    stage.ready("math", "False", "AgentUnavailable").await?;
    endpoints_are(&stage, other, silent).await?;
    stage.cluster.set_agent_ready(silent, true).await?;
    stage.all_ready("math").await.map(drop)
}

#[tokio::test]
async fn without_a_matching_node_the_reason_is_no_matching_node() -> Result<()> {
    let stage = Stage::new("nowhere", 0).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.ready("math", "False", "NoMatchingNode").await.map(drop)
}
