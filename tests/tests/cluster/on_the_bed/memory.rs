//! Guests that demand more memory than the agent's Pod may have.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::stage::{ADD, Alone, eventually};

/// Grows to a number of pages, and writes to all of them until its timeout.
const HOARD: &str = include_str!("../../../guests/hoard.wat");

fn restarts(pods: &[Pod]) -> i32 {
    let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()).flatten();
    statuses.map(|status| status.restart_count).sum()
}

#[tokio::test]
async fn calls_beyond_the_agents_memory_are_refused_and_its_pod_survives() -> Result<()> {
    let stage = Alone::new_alone("memory").await?;
    stage.world.helm().upgrade(&["agent.resources.limits.memory=256Mi"]).await?;
    let outcome = storm(&stage).await;
    // Also after a failure: the next test has the release's own values.
    stage.world.helm().upgrade(&[]).await?;
    outcome
}

async fn storm(stage: &Alone) -> Result<()> {
    stage.client(None).await?;
    stage.apply("hoard", &stage.push("1", HOARD).await?, "limits: {memory: 64Mi, timeout: 2s}").await?;
    stage.apply("add", &stage.push("2", ADD).await?, "").await?;
    stage.all_ready("hoard").await?;
    stage.all_ready("add").await?;
    let before = stage.agents().await?;

    // 64 callers at once, each for 60 MiB on one of three nodes of 256 MiB.
    let url = format!("http://hoard.{}.svc/hold?[1-192]", stage.cluster.namespace);
    let format = "%{http_code} %header{retry-after}\\n";
    let storm = stage
        .curl(
            &[
                ["--parallel", "--parallel-immediate", "--parallel-max", "64", "--max-time", "60"].as_slice(),
                &["-s", "-o", "/dev/null", "-w", format],
                &["-H", "content-type: application/json", "-d", "[960]", &url],
            ]
            .concat(),
        )
        .await?;
    let count = |status: &str| storm.lines().filter(|line| line.starts_with(status)).count();
    println!(
        "figure: of 192 calls for 60 MiB each: {} ended at their timeout, {} refused",
        count("504"),
        count("503")
    );
    ensure!(count("503 1") > 0, "no call was refused with Retry-After:\n{storm}");
    ensure!(count("504") > 0, "no call got memory:\n{storm}");
    ensure!(
        count("503") + count("504") == 192,
        "a call neither was refused nor ended at its timeout:\n{storm}"
    );

    let after = stage.agents().await?;
    let uids = |pods: &[Pod]| {
        let mut uids: Vec<_> = pods.iter().filter_map(Pod::uid).collect();
        uids.sort();
        uids
    };
    ensure!(uids(&before) == uids(&after) && restarts(&after) == 0, "an agent was killed or replaced");

    // Afterwards calls are served again.
    let url = format!("http://add.{}.svc/add", stage.cluster.namespace);
    let answers = async || {
        let said = stage.curl(&["-H", "content-type: application/json", "-d", "[6,7]", &url]).await?;
        ensure!(said == "13", "{said}");
        Ok(())
    };
    eventually(answers).await
}
