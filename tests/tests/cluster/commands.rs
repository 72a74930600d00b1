//! The `kubectl` commands that the docs show, and their output.

use anyhow::{Result, ensure};

use crate::stage::{ADD, SYSTEM, Stage, eventually, names};

#[tokio::test]
async fn kubectl_shows_a_plugin_its_events_and_its_fields() -> Result<()> {
    let stage = Stage::new("shown").await?;
    let image = stage.push("1", ADD).await?;
    stage.apply("add", &image, "").await?;
    let kubectl = |arguments: &'static str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let cluster = &stage.cluster;
        async move { cluster.kubectl(&arguments).await }
    };
    ensure!(kubectl("wait --for=condition=Ready wplug/add --timeout=40s").await?.contains("condition met"));

    let all = kubectl("get wplug -A").await?;
    ensure!(
        all.lines().next().is_some_and(|head| head.contains("READY") && head.contains("REVISION")),
        "{all}"
    );
    let row = all.lines().find(|line| line.starts_with(&stage.cluster.namespace)).unwrap_or_default();
    ensure!(
        row.contains(&format!("{0}/{0}", stage.agents().await?.len())) && row.contains("AllNodesReady"),
        "{all}"
    );
    ensure!(kubectl("get wasmplugin add -o wide").await?.contains(&image));
    ensure!(kubectl("get samovar").await?.contains("pluginassignment"), "the category lacks a kind");

    let described = kubectl("describe wplug add").await?;
    ensure!(
        described.contains("Resolved Image:") && described.contains("func(i32, i32) -> i32"),
        "{described}"
    );
    let events = kubectl("get events --field-selector involvedObject.name=add").await?;
    ensure!(events.contains("AllNodesReady"), "{events}");
    let explained = kubectl("explain wplug.spec.limits.memory").await?;
    ensure!(explained.contains("DESCRIPTION") && !explained.contains("<empty>"), "{explained}");
    Ok(())
}

#[tokio::test]
async fn the_agents_logs_name_the_plugin() -> Result<()> {
    let stage = Stage::new("logged").await?;
    stage.apply("add", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("add").await?;
    let key = format!("{}/add", stage.cluster.namespace);
    let lines = async || {
        let logs = [
            "logs",
            "--namespace",
            SYSTEM,
            "--selector=app.kubernetes.io/component=agent",
            "--tail=-1",
            "--prefix",
        ];
        let log = stage.cluster.kubectl(&logs).await?;
        let of_plugin = log.lines().filter(|line| line.contains(&key) && line.contains("ready")).count();
        let agents = stage.agents().await?;
        ensure!(of_plugin == agents.len(), "{of_plugin} of {:?} log that {key} is ready", names(&agents));
        Ok(())
    };
    eventually(lines).await
}

#[tokio::test]
async fn an_invalid_spec_is_refused_and_a_missing_image_is_reported() -> Result<()> {
    let stage = Stage::new("wrong").await?;
    let image = stage.push("1", ADD).await?;
    for (spec, said) in [
        ("limits: {timeout: 2h}", "timeout"),
        ("limits: {memory: a lot}", "memory"),
        ("replicas: -1", "replicas"),
        ("functions: [{name: Not_Kebab}]", "functions"),
        ("unknownField: 1", "unknownField"),
    ] {
        let refusal = stage.apply("wrong", &image, spec).await.expect_err(spec).to_string();
        ensure!(refusal.contains(said), "{spec}: {refusal}");
    }
    let missing = image.replace(":1", ":none");
    stage.apply("missing", &missing, "").await?;
    let plugin = stage.ready("missing", "False", "ImageNotFound").await?;
    ensure!(crate::stage::message(&plugin).contains(&missing), "{}", crate::stage::message(&plugin));
    Ok(())
}
