//! The test bed itself: the control plane, the registry and the proxy that the other tests rely on.

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::{
    Api, Resource as _, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, WatchParams},
};
use samovar_testbed::{ApiProxy, Cluster, Link, Registry};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn objects_of_a_deleted_owner_are_garbage_collected() -> Result<()> {
    let cluster = Cluster::new("owners").await?;
    let owner = cluster.api().create(&PostParams::default(), &config_map("owner")).await?;
    let mut dependent = config_map("dependent");
    dependent.metadata.owner_references = owner.owner_ref(&()).map(|owner| vec![owner]);
    cluster.api().create(&PostParams::default(), &dependent).await?;

    cluster.api::<ConfigMap>().delete("owner", &DeleteParams::default()).await?;
    cluster.wait_until_gone::<ConfigMap>("dependent", SOON).await
}

#[tokio::test]
async fn a_node_and_its_agent_pod_are_ready() -> Result<()> {
    let cluster = Cluster::new("nodes").await?;
    let node = cluster.node("a").await?;
    let agent = cluster.agent_pod(&node).await?;

    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &agent.namespace);
    let pod = pods.get(&agent.name).await?;
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    assert!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    assert_eq!(pod.uid(), Some(agent.uid));
    let node = Api::<Node>::all(cluster.client.clone()).get(&node).await?;
    assert_eq!(node.spec.unwrap_or_default().taints, None);
    Ok(())
}

#[tokio::test]
async fn a_refusal_of_the_api_server_is_the_error() -> Result<()> {
    let cluster = Cluster::new("refused").await?;
    let refusal =
        cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: UPPER}}").await.unwrap_err();
    assert!(refusal.to_string().contains("lowercase RFC 1123"), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn the_registry_keeps_its_blobs_over_a_restart() -> Result<()> {
    let mut registry = Registry::start().await?;
    let layer = registry.push_blob("demo/text", "application/wasm", b"\0asm\x01\0\0\0").await?;
    let url = format!("http://{}/v2/demo/text/blobs/{}", registry.address(), layer.digest);
    registry.stop();
    assert!(reqwest::get(&url).await.is_err_and(|error| error.is_connect()));
    registry.start_again().await?;
    let answer = reqwest::get(&url).await?.error_for_status()?;
    assert_eq!(answer.bytes().await?.len(), layer.size);
    Ok(())
}

#[tokio::test]
async fn the_proxy_stops_a_process_between_two_writes() -> Result<()> {
    let cluster = Cluster::new("held").await?;
    let proxy = ApiProxy::start(&cluster.kubeconfig).await?;
    let through_proxy: Api<ConfigMap> = Api::namespaced(proxy.client().await?, &cluster.namespace);

    proxy.hold_after(1);
    let writer = tokio::spawn(async move {
        for name in ["first", "second"] {
            through_proxy.create(&PostParams::default(), &config_map(name)).await?;
        }
        Ok::<_, kube::Error>(())
    });
    assert!(proxy.held(SOON).await);
    writer.abort();
    proxy.release();

    let names: Vec<_> = cluster
        .api::<ConfigMap>()
        .list(&ListParams::default())
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert!(names.contains(&"first".to_owned()) && !names.contains(&"second".to_owned()), "{names:?}");
    assert_eq!(proxy.writes().len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_proxy_streams_watches_and_breaks_them() -> Result<()> {
    let cluster = Cluster::new("watched").await?;
    let proxy = ApiProxy::start(&cluster.kubeconfig).await?;
    let through_proxy: Api<ConfigMap> = Api::namespaced(proxy.client().await?, &cluster.namespace);

    let mut watch = through_proxy.watch(&WatchParams::default(), "0").await?.boxed();
    cluster.api().create(&PostParams::default(), &config_map("new")).await?;
    tokio::time::timeout(SOON, watch.try_next()).await??;

    proxy.set(Link::Hung);
    assert!(tokio::time::timeout(Duration::from_millis(300), through_proxy.get("new")).await.is_err());
    proxy.set(Link::Refused);
    assert!(through_proxy.get("new").await.is_err());
    // The stream ends, with an error or without one.
    tokio::time::timeout(SOON, async { while let Ok(Some(_)) = watch.try_next().await {} }).await?;
    proxy.set(Link::Open);
    through_proxy.get("new").await?;
    Ok(())
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name } }))
        .expect("a ConfigMap needs no more than a name")
}
