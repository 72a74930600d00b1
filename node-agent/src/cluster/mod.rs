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
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let program =
        std::env::current_exe().context("this program cannot find itself, to compile in a child process")?;
    let checkpoint = Checkpoint::new(&options.state_dir, &options.pod_uid);
    let loaded = checkpoint.load();
    // Serving goes on from what was last known; the API server's word replaces it when it comes.
    let known = watch::Sender::new(if loaded.is_some() { SyncState::Whole } else { SyncState::None });
    let loaded = loaded.unwrap_or_default();
    let (desired, wanted) = watch::channel(loaded.clone());
    let (serve, served) = watch::channel(loaded);
    let (identify, uids) = watch::channel(Uids::new());
    let wants = wanted.clone();
    let agent = Agent::start(
        AgentOptions {
            listen: options.listen,
            ops_listen: options.ops_listen,
            state_dir: options.state_dir.clone(),
            registry: ClientOptions {
                insecure_registries: options.insecure_registry.clone(),
                docker_config: options.docker_config.clone(),
                ..ClientOptions::default()
            },
            operator: Some(options.operator.clone()),
            max_compiles: options.max_compiles,
            max_instances: options.max_instances,
            bounds: options.bounds.clone(),
            network: NetworkOptions { closed: options.closed_network.clone(), ..NetworkOptions::default() },
            compiler: options.bounds.compiler(program),
            drain_deadline: options.drain_deadline.into(),
        },
        served,
    )?;
    tracing::info!(address = %agent.address, ops = %agent.ops_address, node = options.node_name, "started");
    let client = client().await?;
    let mut knows = known.subscribe();
    let outputs = Outputs { desired, uids: identify, known };
    let lingering = tokio::spawn(drain::follow(wanted, serve, options.drain_delay.into()));
    let watching = {
        let (client, options) = (client.clone(), options.clone());
        tokio::spawn(async move {
            let (namespaces, node, pod_uid) =
                (&options.watch_namespace, &options.node_name, &options.pod_uid);
            assignments::follow(client, namespaces, node, pod_uid, checkpoint, outputs).await;
        })
    };
    let reporting = {
        let (pod_uid, reports) = (options.pod_uid.clone(), agent.reports().clone());
        tokio::spawn(async move { status::follow(client, &pod_uid, reports, uids).await })
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = async {
            let _ = knows.wait_for(|knows| *knows >= SyncState::Own).await;
            // While a DaemonSet replaces its Pods, the one before is stopped as soon as this one is ready.
            let caught_up = async {
                let _ = knows.wait_for(|knows| *knows == SyncState::Whole).await;
                settled(agent.reports(), &wants).await;
            };
            let _ = tokio::time::timeout(SETTLE, caught_up).await;
            agent.set_ready(true);
            std::future::pending::<()>().await;
        } => {}
    }
    tracing::info!("draining");
    // From here on what runs stays as it is: what callers were sent here for is answered.
    watching.abort();
    lingering.abort();
    tokio::time::sleep(options.drain_delay.into()).await;
    agent.shutdown().await;
    reporting.abort();
    Ok(())
}

/// Waits until nothing that is wanted is on its way any more: it serves, or has failed.
async fn settled(reports: &Reports, wants: &watch::Receiver<Desired>) {
    let mut changed = reports.subscribe();
    let on_its_way = |key: &Key| {
        reports.report(key).is_none_or(|report| !matches!(report.state, State::Ready | State::Failed))
    };
    while wants.borrow().keys().any(on_its_way) && changed.changed().await.is_ok() {}
}

/// A client of the API server, with timeouts that let an agent notice when it is gone.
async fn client() -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer()
        .await
        .context("the API server cannot be found; in a Pod its address is given, elsewhere set KUBECONFIG")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(kube::Client::try_from(config)?)
}
