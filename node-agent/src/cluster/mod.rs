//! The agent in a cluster: its desired state is its assignments, its reports are their statuses.

pub(crate) mod assignments;
pub(crate) mod drain;
pub(crate) mod status;

use std::time::Duration;

use anyhow::Context as _;
use samovar_crds::State;
use samovar_registry::ClientOptions;
use samovar_runtime::NetworkOptions;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::assignments::{Checkpoint, Outputs, SyncState, Uids};
use crate::{
    agent::{Agent, AgentOptions},
    desired::{Desired, Key},
    options::Options,
    reports::Reports,
};

/// How long an agent that starts may load what it is to serve before it is ready all the same: one plugin whose
/// registry hangs must not keep the others from their calls.
const SETTLE: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // All of them by name, so that the compiler finds one that is forgotten.
    let Options {
        node_name,
        pod_uid,
        listen,
        ops_listen,
        state_dir,
        insecure_registry,
        docker_config,
        operator,
        max_compiles,
        max_instances,
        bounds,
        closed_network,
        watch_namespace,
        drain_delay,
        drain_deadline,
        // The program's `main` uses it.
        log_format: _,
    } = options;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let program =
        std::env::current_exe().context("this program cannot find itself, to compile in a child process")?;
    let checkpoint = Checkpoint::new(&state_dir, &pod_uid);
    let loaded = checkpoint.load();
    // Serving goes on from what was last known; the API server's word replaces it when it comes.
    let sync_state = watch::Sender::new(if loaded.is_some() { SyncState::Whole } else { SyncState::None });
    let loaded = loaded.unwrap_or_default();
    let (publish, desired) = watch::channel(loaded.clone());
    let (serve, served) = watch::channel(loaded);
    let (identify, uids) = watch::channel(Uids::new());
    let to_settle = desired.clone();
    let compiler = bounds.compiler(program);
    let agent = Agent::start(
        AgentOptions {
            listen,
            ops_listen,
            state_dir,
            registry: ClientOptions {
                insecure_registries: insecure_registry,
                docker_config,
                ..ClientOptions::default()
            },
            operator: Some(operator),
            max_compiles,
            max_instances,
            bounds,
            network: NetworkOptions { closed: closed_network, ..NetworkOptions::default() },
            compiler,
            drain_deadline: drain_deadline.into(),
        },
        served,
    )?;
    tracing::info!(address = %agent.address, ops = %agent.ops_address, node = node_name, "started");
    let client = client().await?;
    let mut synced = sync_state.subscribe();
    let outputs = Outputs { desired: publish, uids: identify, sync_state };
    let draining = tokio::spawn(drain::follow(desired, serve, drain_delay.into()));
    let watching = {
        let (client, pod_uid) = (client.clone(), pod_uid.clone());
        tokio::spawn(async move {
            assignments::follow(client, &watch_namespace, &node_name, &pod_uid, checkpoint, outputs).await;
        })
    };
    let reporting = {
        let reports = agent.reports().clone();
        tokio::spawn(async move { status::follow(client, &pod_uid, reports, uids).await })
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = async {
            let _ = synced.wait_for(|state| *state >= SyncState::Own).await;
            // While a DaemonSet replaces its Pods, the one before is stopped as soon as this one is ready.
            let caught_up = async {
                let _ = synced.wait_for(|state| *state == SyncState::Whole).await;
                settled(agent.reports(), &to_settle).await;
            };
            let _ = tokio::time::timeout(SETTLE, caught_up).await;
            agent.set_ready(true);
            std::future::pending::<()>().await;
        } => {}
    }
    tracing::info!("draining");
    // From here on what runs stays as it is: what callers were sent here for is answered.
    watching.abort();
    draining.abort();
    tokio::time::sleep(drain_delay.into()).await;
    agent.shutdown().await;
    reporting.abort();
    Ok(())
}

/// Waits until nothing that is wanted is on its way any more: it serves, or has failed.
async fn settled(reports: &Reports, desired: &watch::Receiver<Desired>) {
    let mut changed = reports.subscribe();
    let is_loading = |key: &Key| {
        reports.report(key).is_none_or(|report| !matches!(report.state, State::Ready | State::Failed))
    };
    while desired.borrow().keys().any(is_loading) && changed.changed().await.is_ok() {}
}

/// A client of the API server, with timeouts that let an agent notice when it is gone.
async fn client() -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer()
        .await
        .context("the API server cannot be found; in a Pod its address is given, elsewhere set KUBECONFIG")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(kube::Client::try_from(config)?)
}
