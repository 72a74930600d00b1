//! An operator killed between any two writes converges to the same objects; at rest it writes nothing.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::Service, discovery::v1::EndpointSlice};
use kube::{ResourceExt, api::ListParams};
use samovar_crds::PluginAssignment;
use samovar_testbed::{ApiProxy, Cluster, ControlPlane};

use crate::stage::{ADD, Operator, SOON, Stage};

/// The names of all objects that the operator created for a plugin.
async fn created(stage: &Stage, plugin: &str) -> Result<Vec<String>> {
    let all = ListParams::default().labels(&format!("samovar.dev/plugin={plugin}"));
    let mut names = Vec::new();
    let cluster = &stage.cluster;
    names.extend(cluster.api::<ControllerRevision>().list(&all).await?.iter().map(ResourceExt::name_any));
    names.extend(cluster.api::<Service>().list(&all).await?.iter().map(ResourceExt::name_any));
    names.extend(cluster.api::<PluginAssignment>().list(&all).await?.iter().map(ResourceExt::name_any));
    names.extend(cluster.api::<EndpointSlice>().list(&all).await?.iter().map(ResourceExt::name_any));
    Ok(names)
}

#[tokio::test]
async fn an_operator_killed_between_any_two_writes_converges_to_the_same_objects() -> Result<()> {
    let own = Arc::new(ControlPlane::start().await?);
    let proxy = ApiProxy::start(&own.kubeconfig()).await?;
    let stage = Stage::on(Cluster::on(own, "killed").await?, 2).await?;
    let image = stage.push("1", ADD).await?;
    let mut operator = Operator::start(proxy.kubeconfig()).await?.process;

    stage.apply("whole", &image, "").await?;
    stage.all_ready("whole").await?;
    // The names of revisions and assignments contain a hash of the template, which is the same for every plugin here.
    let whole: Vec<_> =
        created(&stage, "whole").await?.iter().map(|name| name.replace("whole", "math")).collect();

    let mut cut = 0;
    for writes in 1.. {
        let name = format!("cut{writes}");
        proxy.hold_after(writes);
        stage.apply(&name, &image, "").await?;
        let ended = tokio::select! {
            held = proxy.held(SOON) => !held,
            ready = stage.all_ready(&name) => ready.map(|_| true)?,
        };
        operator.kill();
        proxy.release();
        operator.start_again()?;
        stage.all_ready(&name).await?;
        let names: Vec<_> =
            created(&stage, &name).await?.iter().map(|object| object.replace(&name, "math")).collect();
        assert_eq!(names, whole, "killed after {writes} writes");
        if ended {
            break;
        }
        cut += 1;
    }
    // A revision, a Service, two assignments, a status: fewer kills than writes would mean that some were not tried.
    assert!(cut >= 5, "only {cut} places to kill it at were found");
    Ok(())
}

#[tokio::test]
async fn an_operator_at_rest_writes_nothing() -> Result<()> {
    let own = Arc::new(ControlPlane::start().await?);
    let proxy = ApiProxy::start(&own.kubeconfig()).await?;
    let mut stage = Stage::on(Cluster::on(own, "rest").await?, 0).await?;
    let _operator = Operator::start(proxy.kubeconfig()).await?;
    for name in ["a", "b"] {
        let node = stage.cluster.node(name).await?;
        let pod = stage.cluster.agent_pod(&node).await?;
        stage.agents.push(crate::stage::Agent::start(pod, proxy.kubeconfig()).await?);
    }
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    // A node's heartbeat, as kubelets send it, changes no decision and so causes no write.
    let quiet =
        Duration::from_secs(std::env::var("SAMOVAR_REST_SECONDS").map_or(Ok(5), |text| text.parse())?);
    let settled = settled(&proxy).await;
    stage.cluster.set_node_ready(&stage.agents[0].pod.node, true).await?;
    assert!(!proxy.writes_past(settled, quiet).await, "{:?}", &proxy.writes()[settled..]);
    Ok(())
}

/// The number of writes once none has come for a second.
async fn settled(proxy: &ApiProxy) -> usize {
    loop {
        let before = proxy.writes().len();
        if !proxy.writes_past(before, Duration::from_secs(1)).await {
            return before;
        }
    }
}
