//! The agent in a cluster: its assignments are its desired state, and its reports go to their statuses.

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

/// The longest that the loads of a starting agent may delay its readiness: one plugin whose registry hangs must not
/// keep the others from their calls.
const SETTLE: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Without `..`, so that the compiler finds an option that nothing uses.
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
        // `main` uses it.
        log_format: _,
    } = options;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let program = std::env::current_exe()
        .context("the path of this program, which compiles modules in child processes, is unknown")?;
    let checkpoint = Checkpoint::new(&state_dir, &pod_uid);
    let loaded = checkpoint.load();
    // The agent serves its checkpoint until the first sync replaces it.
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
            // While a DaemonSet replaces its Pods, the predecessor is stopped as soon as this agent is ready.
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
    // From here on the desired state is frozen, so that calls which are still routed here are served.
    watching.abort();
    draining.abort();
    tokio::time::sleep(drain_delay.into()).await;
    agent.shutdown().await;
    reporting.abort();
    Ok(())
}

/// Waits until each desired revision serves or has failed.
async fn settled(reports: &Reports, desired: &watch::Receiver<Desired>) {
    let mut changed = reports.subscribe();
    let is_loading = |key: &Key| {
        reports.report(key).is_none_or(|report| !matches!(report.state, State::Ready | State::Failed))
    };
    while desired.borrow().keys().any(is_loading) && changed.changed().await.is_ok() {}
}

/// A client of the API server, with a timeout by which an agent notices that it is unreachable.
async fn client() -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer()
        .await
        .context("no API server is configured; in a Pod Kubernetes does that, elsewhere set KUBECONFIG")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(kube::Client::try_from(config)?)
}
