//! Grants of files and hosts, from a policy on the API server to a guest on an agent.

use anyhow::{Result, ensure};
use samovar_testbed::upstream::{Upstream, respond};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    grants::stage,
    stage::{Stage, message},
};

/// A guest that performs a file operation for each line of its input.
const FILES: &[u8] = include_bytes!("../../guests/files/files.wasm");
/// A guest that connects to hosts.
const OUTGOING: &[u8] = include_bytes!("../../guests/outgoing/outgoing.wasm");

/// Calls a function with these arguments; returns its answer, which may be the guest's error.
async fn ask(stage: &Stage, plugin: &str, function: &str, arguments: &Value) -> Result<Value> {
    let (status, answer) =
        stage.agents[0].call(&stage.cluster.namespace, plugin, function, &arguments.to_string()).await?;
    ensure!(status == 200 || status == 502, "{plugin}/{function}: {status} {answer}");
    Ok(serde_json::from_str(&answer)?)
}

#[tokio::test]
async fn files_of_objects_are_read_only_and_current_and_scratch_is_per_call() -> Result<()> {
    let stage = stage("files", 1).await?;
    let image = stage.push_wasm("files", FILES).await?;
    stage.config_map("en").await?;
    stage.secret("hidden").await?;
    let policy = "securityPolicy: {files: [
        {path: /words, configMap: {name: words}},
        {path: /keys, secret: {name: api}},
        {path: /none, secret: {name: nowhere, optional: true}},
        {path: /tmp, scratch: {sizeLimit: 64Ki}}]}";
    stage.apply("files", &image, policy).await?;
    stage.all_ready("files").await?;

    let namespace = stage.cluster.namespace.clone();
    let script = "read\t/words/locale\nread\t/keys/token\nlist\t/none\nwrite\t/keys/token\tmine\nlist\t/tmp\n\
                  fill\t/tmp/a\t60000\nfill\t/tmp/b\t60000\nread\t/etc/passwd\nlist\t/";
    // 76 is WASI's ENOTCAPABLE: the path is in no granted folder.
    let refused = "ReadOnlyFilesystem\nok\nok\nStorageFull\nerrno 76\nerrno 76\n";
    let answer = |locale: &str, token: &str| format!("ok {locale}\nok {token}\nok\n{refused}");
    // Twice: the second call finds nothing of the first in scratch.
    for _ in 0..2 {
        let (status, said) = stage.agents[0].call(&namespace, "files", "run", script).await?;
        ensure!((status, &*said) == (200, &*answer("en", "hidden")), "{status} {said}");
    }
    stage.secret("changed").await?;
    stage.config_map("de").await?;
    stage.agents[0].answers(&namespace, "files", "run", script, &answer("de", "changed")).await
}

#[tokio::test]
async fn a_guest_reaches_its_allowed_hosts_and_no_others() -> Result<()> {
    let stage = stage("hosts", 1).await?;
    let image = stage.push_wasm("outgoing", OUTGOING).await?;
    let allowed = Upstream::start(|stream| respond(stream, "hi")).await?;
    let authority = allowed.authority.as_str();
    let other = TcpListener::bind("127.0.0.1:0").await?;
    let elsewhere = other.local_addr()?.to_string();
    stage.apply("out", &image, "").await?;
    let plugin = stage.ready("out", "False", "ImportNotGranted").await?;
    ensure!(message(&plugin).contains("securityPolicy.network"), "{}", message(&plugin));

    let policy = format!("securityPolicy: {{network: {{allowedHosts: ['{authority}']}}}}");
    stage.apply("out", &image, &policy).await?;
    stage.all_ready("out").await?;
    let answer = ask(&stage, "out", "fetch", &json!(["http", authority, "/"])).await?;
    ensure!(answer["status"] == 200 && answer["bytes"] == 2, "{answer}");
    for (host, why) in [
        (elsewhere.as_str(), "DestinationIpProhibited"),
        ("169.254.169.254", "DestinationIpProhibited"),
        ("kubernetes.default.svc", "HttpRequestDenied"),
    ] {
        let answer = ask(&stage, "out", "fetch", &json!(["http", host, "/"])).await?;
        ensure!(answer.to_string().contains(why), "{host}: {answer}");
    }
    tokio::select! {
        biased;
        _ = other.accept() => anyhow::bail!("a host that is not allowed was reached"),
        () = std::future::ready(()) => Ok(()),
    }
}
