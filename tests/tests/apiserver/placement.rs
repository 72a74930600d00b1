//! Nodes and replicas: who carries a plugin, and what is said of it.

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

/// Waits until calls go to the agent `to`, and to the agent `instead` only while no other is ready.
async fn calls_go(stage: &Stage, to: &AgentPod, instead: &AgentPod) -> Result<()> {
    let mut wanted = [(to.ip.clone(), [true, true, false]), (instead.ip.clone(), [false, true, true])];
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
async fn scaling_changes_how_many_nodes_carry_it() -> Result<()> {
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
async fn a_node_that_goes_down_hands_its_replica_to_another() -> Result<()> {
    let stage = Stage::new("moves", 2).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "replicas: 1").await?;
    stage.all_ready("math").await?;
    let before = nodes_of(&stage).await?;
    stage.cluster.set_node_ready(&before[0], false).await?;
    let other = stage.agents.iter().find(|agent| agent.pod.node != before[0]).expect("there are two");
    other.answers(&stage.cluster.namespace, "math", "add", "[6, 7]", "13").await?;
    stage.all_ready("math").await?;
    let lost = stage.agents.iter().find(|agent| agent.pod.node == before[0]).expect("it is one of them");
    calls_go(&stage, &other.pod, &lost.pod).await?;
    // It is back: one of the two is enough.
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
async fn a_new_node_carries_what_it_should() -> Result<()> {
    let mut stage = Stage::new("joins", 1).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    stage.add_agent("late").await?;
    stage.agents[1].answers(&stage.cluster.namespace, "math", "add", "[6, 7]", "13").await?;
    stage.on_nodes("math", 2, 2, SOON).await.map(drop)
}

#[tokio::test]
async fn an_agent_that_is_not_ready_is_called_only_while_no_other_is() -> Result<()> {
    let stage = Stage::new("silent", 2).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    let (silent, other) = (&stage.agents[0].pod, &stage.agents[1].pod);
    stage.cluster.set_agent_ready(silent, false).await?;
    stage.ready("math", "False", "AgentUnavailable").await?;
    calls_go(&stage, other, silent).await?;
    stage.cluster.set_agent_ready(silent, true).await?;
    stage.all_ready("math").await.map(drop)
}

#[tokio::test]
async fn where_no_node_matches_that_is_said() -> Result<()> {
    let stage = Stage::new("nowhere", 0).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.ready("math", "False", "NoMatchingNode").await.map(drop)
}
