//! Wiring: the caches, the controller, the port for operators.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    core::DeserializeGuard,
    runtime::{Controller, controller, watcher},
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use samovar_crds::WasmPlugin;
use samovar_registry::{Client as RegistryClient, ClientOptions};
use samovar_telemetry::ops::Ops;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::SetOnce,
};

use crate::{
    events, observe,
    observe::{Caches, changes},
    options::Options,
    place::{self, NodeFacts},
    reconcile::{Context, after, reconcile},
    resolve::Resolver,
};

/// Changes of one plugin that come within this time are one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Plugins that are reconciled at once.
const AT_ONCE: u16 = 16;

/// Runs until SIGTERM or SIGINT; what is being reconciled then is finished.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut config = kube::Config::infer()
        .await
        .context("the API server cannot be found; in a Pod its address is given, elsewhere set KUBECONFIG")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = kube::Client::try_from(config)?;
    let mut metrics = Registry::default();
    let (reconciles, failures) = (Counter::default(), Counter::default());
    let operator = metrics.sub_registry_with_prefix("samovar_operator");
    operator.register("reconciles", "Reconciles of plugins", reconciles.clone());
    operator.register("reconcile_failures", "Reconciles that failed", failures.clone());
    let ops = Ops::new(metrics);
    let ops_address = ops.serve(options.ops_listen)?;
    tracing::info!(ops = %ops_address, "started");

    let (revisions, revision_events) = observe::own(client.clone());
    let (assignments, assignment_events) = observe::own(client.clone());
    let (services, service_events) = observe::own(client.clone());
    let (slices, slice_events) = observe::own(client.clone());
    let (nodes, node_events) = observe::cached::<Node>(Api::all(client.clone()), watcher::Config::default());
    let agents_of = watcher::Config::default().labels(&options.agent_selector);
    let (agents, agent_events) =
        observe::cached::<Pod>(Api::namespaced(client.clone(), &options.agent_namespace), agents_of);
    let node_changes = changes(nodes.clone(), node_events, NodeFacts::of);
    let agent_changes = changes(agents.clone(), agent_events, place::agent);

    let registry = RegistryClient::new(ClientOptions {
        insecure_registries: options.insecure_registry,
        docker_config: options.docker_config,
        ..ClientOptions::default()
    })?;
    let context = Arc::new(Context {
        caches: Caches { revisions, assignments, services, slices, nodes, agents },
        filled: SetOnce::new(),
        resolver: Resolver::new(registry),
        recorder: events::recorder(client.clone()),
        reconciles,
        failures,
        tries: Mutex::default(),
        client: client.clone(),
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopping = Arc::new(AtomicBool::new(false));
    let stop = {
        let (stopping, ops) = (Arc::clone(&stopping), ops.clone());
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stopping.store(true, Ordering::Release);
            ops.set_ready(false);
        }
    };
    let plugins: Api<DeserializeGuard<WasmPlugin>> = Api::all(client);
    let controller = Controller::new(plugins, watcher::Config::default())
        .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(AT_ONCE))
        .owns_stream(revision_events)
        .owns_stream(assignment_events)
        .owns_stream(service_events)
        .owns_stream(slice_events)
        .reconcile_all_on(node_changes)
        .reconcile_all_on(agent_changes)
        .graceful_shutdown_on(stop);
    let ready = {
        let (context, ops) = (Arc::clone(&context), ops.clone());
        async move {
            if context.caches.filled().await {
                let _ = context.filled.set(());
                ops.set_ready(!stopping.load(Ordering::Acquire));
            }
        }
    };
    let work = controller.run(reconcile, |guard, error, context| after(&guard, error, &context), context);
    // What failed is logged where it failed.
    tokio::join!(work.for_each(|_| std::future::ready(())), ready);
    Ok(())
}
