//! Leader election: one operator leads, and a standby takes over when it exits, dies or hangs.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, runtime::wait::await_condition};
use samovar_testbed::{AGENT_NAMESPACE, Cluster, ControlPlane, Process, free_port};
use tokio::time::timeout;

use crate::stage::{ADD, SOON, Stage};

const LEASE: &str = "samovar-operator";

struct Replica {
    name: &'static str,
    process: Process,
}

impl Replica {
    /// Starts an operator and waits until it leads or stands by.
    async fn start(stage: &Stage, name: &'static str) -> Result<Self> {
        let ops = format!("127.0.0.1:{}", free_port()?);
        let flags = [
            "--leader-elect".to_owned(),
            format!("--pod-name={name}"),
            format!("--agent-namespace={AGENT_NAMESPACE}"),
            format!("--ops-listen={ops}"),
            "--contents-listen=127.0.0.1:0".to_owned(),
        ];
        let kubeconfig = [("KUBECONFIG", stage.cluster.kubeconfig.as_path())];
        let mut process = Process::samovar("samovar-operator", flags, &kubeconfig)?;
        process.answers(&format!("http://{ops}/readyz"), SOON).await?;
        Ok(Self { name, process })
    }
}

/// Waits until `holder` has the Lease; returns the number of its transitions.
async fn led_by(stage: &Stage, holder: &str) -> Result<i32> {
    let leases: Api<Lease> = Api::namespaced(stage.cluster.client.clone(), AGENT_NAMESPACE);
    let is_held = |lease: Option<&Lease>| {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        spec.is_some_and(|spec| spec.holder_identity.as_deref() == Some(holder))
    };
    let lease = timeout(SOON, await_condition(leases, LEASE, is_held)).await;
    let spec = lease.with_context(|| format!("{holder} does not lead"))??.and_then(|lease| lease.spec);
    spec.and_then(|spec| spec.lease_transitions).context("a Lease counts its transitions")
}

#[tokio::test]
async fn a_standby_takes_over_when_the_leader_exits_dies_or_hangs() -> Result<()> {
    let own = Arc::new(ControlPlane::start().await?);
    let stage = Stage::on(Cluster::on(own, "leaders").await?, 1).await?;
    let image = stage.push("1", ADD).await?;

    let mut first = Replica::start(&stage, "first").await?;
    let first_term = led_by(&stage, first.name).await?;
    let mut second = Replica::start(&stage, "second").await?;
    stage.apply("of-the-first", &image, "").await?;
    stage.all_ready("of-the-first").await?;
    ensure!(!second.process.log().contains("became the leader identity=second"), "two lead at once");

    // A leader that exits releases the Lease: the standby need not wait until it expires.
    ensure!(first.process.terminate(SOON).await?.success());
    ensure!(led_by(&stage, second.name).await? == first_term + 1);
    stage.apply("of-the-second", &image, "").await?;
    stage.all_ready("of-the-second").await?;

    let mut third = Replica::start(&stage, "third").await?;
    second.process.kill();
    led_by(&stage, third.name).await?;
    stage.apply("of-the-third", &image, "").await?;
    stage.all_ready("of-the-third").await?;

    // A leader that hung for longer than its Lease must not write when it resumes.
    let fourth = Replica::start(&stage, "fourth").await?;
    third.process.pause()?;
    led_by(&stage, fourth.name).await?;
    third.process.resume()?;
    ensure!(!third.process.ended(Duration::from_secs(10)).await?.success());
    ensure!(third.process.log().contains("lost the lease"));
    stage.apply("of-the-fourth", &image, "").await?;
    stage.all_ready("of-the-fourth").await.map(drop)
}
