//! The life cycle of a plugin: applied, served, changed, paused, deleted.

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    apps::v1::ControllerRevision,
    core::v1::{Event, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt as _, api::ListParams};
use samovar_crds::{Abi, PluginAssignment, WasmPlugin};

use crate::stage::{ADD, MULTIPLY, SOON, Stage, condition, eventually, json};

#[tokio::test]
async fn an_applied_plugin_is_served_by_every_agent() -> Result<()> {
    let stage = Stage::new("served", 2).await?;
    let image = stage.push("1", ADD).await?;
    let applied = std::time::Instant::now();
    stage.apply("math", &image, "").await?;
    let plugin = stage.all_ready("math").await?;
    println!("from apply to Ready on two nodes, kubectl included: {:?}", applied.elapsed());
    assert_eq!(stage.answers("math").await?, ["13", "13"]);

    let status = plugin.status.unwrap_or_default();
    assert!(status.resolved_image.unwrap_or_default().contains("@sha256:"));
    assert_eq!(status.url, Some(format!("http://math.{}.svc", stage.cluster.namespace)));
    assert_eq!(status.functions[0].signature, "func(i32, i32) -> i32");
    let table = stage.cluster.kubectl(&["get", "wplug"]).await?;
    assert!(table.contains("2/2") && table.contains("AllNodesReady"), "{table}");

    let slices = stage.cluster.api::<EndpointSlice>().list(&ListParams::default()).await?.items;
    let mut addresses: Vec<_> = slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect();
    let mut agents: Vec<_> = stage.agents.iter().map(|agent| agent.pod.ip.clone()).collect();
    addresses.sort();
    agents.sort();
    assert_eq!(addresses, agents);
    let service = stage.cluster.api::<Service>().get("math").await?;
    assert_eq!(service.spec.unwrap_or_default().selector, None);

    let events = stage.cluster.api::<Event>().list(&ListParams::default()).await?.items;
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("AllNodesReady")), "{events:?}");
    Ok(())
}

#[tokio::test]
async fn a_config_reaches_its_guests_and_a_changed_one_is_a_new_revision() -> Result<()> {
    let stage = Stage::new("config", 1).await?;
    let image = stage.push("1", include_str!("../../guests/trio.wat")).await?;
    let answers = async |data: &str, wanted: &str| {
        stage.agents[0].answers(&stage.cluster.namespace, "trio", "process-data", data, wanted).await
    };
    stage.apply("trio", &image, "config: {deep: {list: [1, {a: null}]}, text: x}").await?;
    let first = stage.all_ready("trio").await?.status.unwrap_or_default();
    assert_eq!(first.functions[0].abi, Some(Abi::Buffer));
    answers("data", r#"{"deep":{"list":[1,{"a":null}]},"text":"x"}|data"#).await?;

    let assignment =
        stage.cluster.api::<PluginAssignment>().list(&ListParams::default()).await?.items.remove(0);
    let edit = r#"{"spec": {"config": {"text": "other"}}}"#;
    let name = format!("pluginassignment/{}", assignment.name_any());
    let refusal = stage.cluster.kubectl(&["patch", &name, "--type=merge", "-p", edit]).await.unwrap_err();
    assert!(refusal.to_string().contains("spec is immutable"), "{refusal}");

    stage.apply("trio", &image, "config: {text: other}").await?;
    let second = stage.all_ready("trio").await?.status.unwrap_or_default();
    assert_ne!(first.revision, second.revision);
    answers("data", r#"{"text":"other"}|data"#).await
}

#[tokio::test]
async fn deleting_a_plugin_deletes_all_its_objects() -> Result<()> {
    let stage = Stage::new("deleted", 1).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    let assignment =
        stage.cluster.api::<PluginAssignment>().list(&ListParams::default()).await?.items.remove(0);
    let revision =
        stage.cluster.api::<ControllerRevision>().list(&ListParams::default()).await?.items.remove(0);
    stage.cluster.kubectl(&["delete", "wplug", "math"]).await?;
    stage.cluster.wait_until_gone::<WasmPlugin>("math", SOON).await?;
    stage.cluster.wait_until_gone::<PluginAssignment>(&assignment.name_any(), SOON).await?;
    stage.cluster.wait_until_gone::<ControllerRevision>(&revision.name_any(), SOON).await?;
    stage.cluster.wait_until_gone::<Service>("math", SOON).await?;
    stage.cluster.wait_until_gone::<EndpointSlice>("math-ipv4-8080-0", SOON).await?;
    eventually(async || {
        let answer = stage.agents[0].call(&stage.cluster.namespace, "math", "add", "[1, 2]").await?;
        ensure!(answer.0 == 404, "the agent still serves it: {answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_moved_tag_is_resolved_again_only_for_a_new_revision() -> Result<()> {
    let stage = Stage::new("moved", 2).await?;
    let image = stage.push("1", ADD).await?;
    stage.apply("math", &image, "").await?;
    let first = stage.all_ready("math").await?.status.unwrap_or_default().revision;
    stage.push("1", MULTIPLY).await?;
    // An edit outside the template creates no revision.
    stage.apply("math", &image, "replicas: 2").await?;
    let second = stage.all_ready("math").await?.status.unwrap_or_default().revision;
    assert_eq!(first, second);
    assert_eq!(stage.answers("math").await?, ["13", "13"]);

    stage.apply("math", &image, "limits: {timeout: 2s}").await?;
    let third = stage.all_ready("math").await?.status.unwrap_or_default().revision;
    assert_ne!(second, third);
    assert_eq!(stage.answers("math").await?, ["42", "42"]);
    Ok(())
}

#[tokio::test]
async fn an_old_spec_serves_its_old_revision_again() -> Result<()> {
    let stage = Stage::new("back", 1).await?;
    let (one, two) = (stage.push("1", ADD).await?, stage.push("2", MULTIPLY).await?);
    stage.apply("math", &one, "").await?;
    let first = stage.all_ready("math").await?.status.unwrap_or_default().revision;
    stage.apply("math", &two, "").await?;
    stage.all_ready("math").await?;
    assert_eq!(stage.answers("math").await?, ["42"]);
    stage.apply("math", &one, "").await?;
    let third = stage.all_ready("math").await?.status.unwrap_or_default().revision;
    assert_eq!(first, third);
    assert_eq!(stage.answers("math").await?, ["13"]);
    Ok(())
}

#[tokio::test]
async fn a_paused_plugin_rolls_out_no_revision_and_keeps_serving() -> Result<()> {
    let stage = Stage::new("paused", 1).await?;
    let (one, two) = (stage.push("1", ADD).await?, stage.push("2", MULTIPLY).await?);
    stage.apply("math", &one, "").await?;
    stage.all_ready("math").await?;
    stage.apply("math", &two, "paused: true").await?;
    let plugin = stage.ready("math", "False", "Paused").await?;
    assert_eq!(condition(&plugin, "Progressing").map(|condition| condition.status.as_str()), Some("Unknown"));
    assert_eq!(stage.answers("math").await?, ["13"]);
    stage.apply("math", &two, "paused: false").await?;
    stage.all_ready("math").await?;
    assert_eq!(stage.answers("math").await?, ["42"]);
    Ok(())
}

#[tokio::test]
async fn a_change_of_revision_loses_no_call() -> Result<()> {
    let stage = Stage::new("seamless", 1).await?;
    let (one, two) = (stage.push("1", ADD).await?, stage.push("2", MULTIPLY).await?);
    stage.apply("math", &one, "").await?;
    stage.all_ready("math").await?;
    let (agent, namespace) = (&stage.agents[0], &stage.cluster.namespace);
    let calls = async {
        let mut answers = Vec::new();
        while answers.last().is_none_or(|(status, answer): &(u16, String)| *status == 200 && answer == "13") {
            answers.push(agent.call(namespace, "math", "add", "[6, 7]").await?);
        }
        anyhow::Ok(answers)
    };
    let (answers, applied) = tokio::join!(tokio::time::timeout(SOON, calls), stage.apply("math", &two, ""));
    applied?;
    let answers = answers??;
    assert_eq!(answers.last(), Some(&(200, "42".to_owned())), "after {} calls", answers.len());
    Ok(())
}

#[tokio::test]
async fn the_agent_describes_a_plugin_and_counts_its_calls() -> Result<()> {
    let stage = Stage::new("described", 1).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    stage.answers("math").await?;
    let (agent, namespace) = (&stage.agents[0], &stage.cluster.namespace);
    let description = reqwest::get(format!("{}/v1/{namespace}/math", agent.url)).await?.text().await?;
    assert_eq!(json(&description)?["functions"][0]["name"], "add");
    let metrics = reqwest::get(format!("{}/metrics", agent.ops)).await?.text().await?;
    let line = format!(
        "samovar_agent_calls_total{{namespace=\"{namespace}\",plugin=\"math\",function=\"add\",outcome=\"ok\"}} 1"
    );
    assert!(metrics.contains(&line), "{metrics}");
    let by_host = reqwest::Client::new().post(format!("{}/add", agent.url));
    let by_host = by_host.header("host", format!("math.{namespace}.svc.cluster.local")).body("[1, 2]");
    assert_eq!(by_host.send().await?.text().await?, "3");
    Ok(())
}
