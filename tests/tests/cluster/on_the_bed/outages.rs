//! Outages of the control plane, the registry and DNS.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use samovar_testbed::Server;

use crate::stage::{ADD, Alone, SOON, eventually, message};

/// Calls the plugin by its name, and checks the answer.
async fn answers(stage: &Alone, plugin: &str) -> Result<()> {
    let url = format!("http://{plugin}.{}.svc/add", stage.cluster.namespace);
    let said = stage.curl(&["-H", "content-type: application/json", "-d", "[6,7]", &url]).await?;
    ensure!(said == "13", "{said}");
    Ok(())
}

#[tokio::test]
async fn calls_continue_without_the_control_plane_and_changes_follow_later() -> Result<()> {
    let mut stage = Alone::new_alone("outage").await?;
    stage.apply("add", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("add").await?;
    let url = format!("http://add.{}.svc/add", stage.cluster.namespace);
    // `kubectl exec` needs the API server: this Pod calls by itself, and its log is read afterwards.
    let script = format!(
        "while :; do curl -s -m 2 -w ' %{{http_code}}\\n' -H content-type:application/json -d '[6,7]' {url} || echo failed; sleep 0.1; done"
    );
    stage.client_that("caller", None, &script).await?;
    let log = async || stage.cluster.kubectl(&["logs", "caller"]).await;
    eventually(async || {
        ensure!(log().await?.lines().count() > 5, "no calls yet");
        Ok(())
    })
    .await?;
    for server in [Server::Etcd, Server::Api] {
        stage.world.bed()?.server(server).pause()?;
        // Long enough for the operator to lose its lease, and for every watch to notice.
        let (began, mut answers) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(17) {
            let read = ["get", "--raw", "/api/v1/namespaces/default", "--request-timeout=2s"];
            answers += usize::from(stage.cluster.kubectl(&read).await.is_ok());
        }
        ensure!(answers == 0, "without {server:?} the API answered {answers} times");
        stage.world.bed()?.server(server).resume()?;
    }
    eventually(async || stage.apply("later", &stage.push("1", ADD).await?, "").await).await?;
    eventually(async || stage.all_ready("later").await).await?;
    // All nodes were NotReady: calls continued while they became Ready, one after the other.
    stage.on_nodes("add", 3, 3, SOON).await?;
    let log = eventually(async || stage.cluster.kubectl(&["logs", "caller"]).await).await?;
    let failed = log.lines().filter(|line| *line != "13 200").count();
    ensure!(
        log.lines().count() > 100 && failed == 0,
        "{failed} of {} calls failed:\n{log}",
        log.lines().count()
    );
    Ok(())
}

#[tokio::test]
async fn an_outage_of_the_registry_delays_only_new_plugins() -> Result<()> {
    let mut stage = Alone::new_alone("no-registry").await?;
    stage.client(None).await?;
    let image = stage.push("1", ADD).await?;
    stage.apply("add", &image, "").await?;
    stage.all_ready("add").await?;
    let next = stage.push("2", ADD).await?;
    stage.world.registry().stop();
    stage.apply("later", &next, "").await?;
    let waiting = stage.ready("later", "False", "RegistryUnavailable").await?;
    ensure!(message(&waiting).contains(stage.world.registry().address()), "{}", message(&waiting));
    answers(&stage, "add").await?;
    stage.world.registry().start_again().await?;
    stage.all_ready("later").await?;
    answers(&stage, "later").await
}

#[tokio::test]
async fn without_dns_a_plugin_answers_at_its_address() -> Result<()> {
    let mut stage = Alone::new_alone("no-dns").await?;
    stage.client(None).await?;
    stage.apply("add", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("add").await?;
    answers(&stage, "add").await?;
    stage.world.bed()?.server(Server::Dns).kill();
    ensure!(answers(&stage, "add").await.is_err(), "the name is still resolved");
    let address =
        stage.cluster.kubectl(&["get", "service", "add", "-o", "jsonpath={.spec.clusterIP}"]).await?;
    let host = format!("Host: add.{}", stage.cluster.namespace);
    let url = format!("http://{address}/add");
    let said =
        stage.curl(&["-H", &host, "-H", "content-type: application/json", "-d", "[6,7]", &url]).await?;
    ensure!(said == "13", "{said}");
    stage.world.bed()?.server(Server::Dns).start_again()?;
    eventually(async || answers(&stage, "add").await).await
}
