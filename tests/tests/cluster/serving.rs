//! Calls to a plugin: by name from a Pod, and through a port-forward.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use samovar_crds::WasmPlugin;
use samovar_testbed::{Process, free_port};

use crate::stage::{ADD, MULTIPLY, SOON, Stage, eventually, files, project};

/// Applies examples/text as its README says, with the module in the test's registry.
async fn apply_example(stage: &Stage) -> Result<()> {
    let there = stage.cluster.kubectl(&["get", "namespace", "demo"]).await;
    ensure!(there.is_err(), "the cluster has a namespace `demo` already, which this test would remove");
    let image = stage.push_wasm("text", &fs::read(project("examples/text/text.wasm"))?).await?;
    let folder = files(&stage.cluster.namespace)?;
    for file in ["namespace.yaml", "plugin.yaml"] {
        let yaml = fs::read_to_string(project("examples/text").join(file))?;
        fs::write(folder.join(file), yaml.replace("registry.example.com/text:1.0", &image))?;
    }
    stage.cluster.kubectl(&["apply", "--namespace=demo", "-f", &folder.display().to_string()]).await?;
    let wait = ["wait", "--namespace=demo", "--for=condition=Ready", "wplug/text", "--timeout=40s"];
    stage.cluster.kubectl(&wait).await.map(drop)
}

#[tokio::test]
async fn the_example_answers_by_name_in_the_cluster_and_through_a_port_forward() -> Result<()> {
    let stage = Stage::new("caller").await?;
    stage.client(None).await?;
    apply_example(&stage).await?;

    for host in ["text.demo.svc", "text.demo.svc.cluster.local", "text.demo"] {
        let url = format!("http://{host}/upper");
        let answer =
            stage.curl(&["-H", "content-type: application/json", "-d", r#"{"text": "hello"}"#, &url]).await;
        ensure!(answer.as_deref().ok() == Some("\"HELLO\""), "{host}: {answer:?}");
    }

    let port = free_port()?;
    let forward =
        ["port-forward", "--namespace=samovar-system", "service/samovar-agent", &format!("{port}:80")];
    let _forward = Process::kubectl(&stage.cluster, &forward)?;
    let call = async || -> Result<String> {
        let url = format!("http://127.0.0.1:{port}/v1/demo/text/upper");
        let call = reqwest::Client::new().post(url).header("content-type", "application/json");
        Ok(call.body(r#"{"text": "hello"}"#).send().await?.error_for_status()?.text().await?)
    };
    ensure!(eventually(call).await? == "\"HELLO\"");
    stage.cluster.kubectl(&["delete", "namespace", "demo", "--wait=false"]).await.map(drop)
}

#[tokio::test]
async fn kube_proxy_sends_calls_to_every_node() -> Result<()> {
    let stage = Stage::new("spread").await?;
    stage.client(None).await?;
    let began = Instant::now();
    stage.apply("add", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("add").await?;
    println!("figure: apply to Ready on all nodes, kubectl included: {} ms", began.elapsed().as_millis());

    let agents = stage.agents().await?;
    ensure!(agents.len() >= 3, "three nodes have an agent each");
    let url = format!("http://add.{}.svc/add", stage.cluster.namespace);
    let many = format!("{url}?[1-60]");
    let answers =
        stage.curl(&["-H", "content-type: application/json", "-d", "[6,7]", "-w", "\\n", &many]).await?;
    ensure!(answers.lines().filter(|line| line.trim() == "13").count() == 60, "{answers}");
    for agent in agents {
        let ip = agent.status.and_then(|status| status.pod_ip).context("a running Pod has an address")?;
        let metrics = stage.curl(&[&format!("http://{ip}:8081/metrics")]).await?;
        let namespace = format!("namespace=\"{}\"", stage.cluster.namespace);
        let counted = metrics
            .lines()
            .any(|line| line.starts_with("samovar_agent_calls_total") && line.contains(&namespace));
        ensure!(counted, "an agent served none of 60 calls");
    }
    Ok(())
}

#[tokio::test]
async fn a_new_revision_replaces_the_old_on_every_node_without_a_lost_call() -> Result<()> {
    let stage = Stage::new("revised").await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    let url = format!("http://math.{}.svc/add", stage.cluster.namespace);
    // One call after another, until the answer has changed and a while longer.
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
           curl -s -w ' %{{http_code}}\\n' -H content-type:application/json -d '[6,7]' '{url}?[1-25]'; sleep 0.2; done"
    );
    stage.client_that("caller", None, &script).await?;
    let calls = async || {
        let log = stage.cluster.kubectl(&["logs", "caller"]).await?;
        ensure!(log.lines().count() > 25, "no calls yet");
        Ok(())
    };
    eventually(calls).await?;
    stage.apply("math", &stage.push("2", MULTIPLY).await?, "").await?;
    let plugin: WasmPlugin = stage.all_ready("math").await?;
    ensure!(plugin.metadata.generation == Some(2), "{}", plugin.name_any());
    let done = "--for=jsonpath={.status.phase}=Succeeded";
    stage.cluster.kubectl(&["wait", done, "pod/caller", "--timeout=60s"]).await?;
    let log = stage.cluster.kubectl(&["logs", "caller"]).await?;
    let count = |answer: &str| log.lines().filter(|line| *line == answer).count();
    ensure!(count("13 200") + count("42 200") == 500, "{log}");
    ensure!(count("13 200") > 0 && count("42 200") > 0, "both revisions answered: {log}");
    Ok(())
}

#[tokio::test]
async fn the_scale_subresource_changes_the_number_of_nodes() -> Result<()> {
    let stage = Stage::new("scaled").await?;
    stage.apply("few", &stage.push("1", ADD).await?, "replicas: 1").await?;
    stage.all_ready("few").await?;
    stage.cluster.kubectl(&["scale", "wplug/few", "--replicas=2"]).await?;
    stage.on_nodes("few", 2, 2, SOON).await?;
    stage.cluster.kubectl(&["scale", "wplug/few", "--replicas=0"]).await?;
    stage.on_nodes("few", 0, 0, SOON).await?;
    let slices = ["get", "endpointslices", "-o", "jsonpath={.items[*].endpoints[*].nodeName}"];
    ensure!(stage.cluster.kubectl(&slices).await?.is_empty());
    Ok(())
}
