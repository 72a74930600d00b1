//! Wires the caches, the controllers and the servers into one process.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use futures::{FutureExt as _, StreamExt as _, future::join_all};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Controller, controller,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use prometheus_client::registry::Registry;
use samovar_crds::{LocalObject, ObjectKind, WasmPlugin};
use samovar_registry::{Client as RegistryClient, ClientOptions};
use samovar_telemetry::ops::Ops;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::SetOnce,
};

use crate::{
    contents::{Keys, Server, Versions},
    events,
    leader::Candidate,
    observe::{self, Caches, changes},
    options::Options,
    place::{self, NodeFacts},
    reconcile::{Context, Counters, error_policy, reconcile},
    resolve::Resolver,
};

/// Changes of one plugin within this time lead to one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Concurrent reconciles.
const CONCURRENCY: u16 = 16;

/// Runs until SIGTERM or SIGINT, and then finishes the reconciles in progress.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut config =
        kube::Config::infer().await.context("cannot find the API server: outside a Pod, set KUBECONFIG")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = kube::Client::try_from(config)?;
    let mut metrics = Registry::default();
    let counters = Counters::new(metrics.sub_registry_with_prefix("samovar_operator"));
    let ops = Ops::new(metrics);
    let ops_address = ops.serve(options.ops_listen)?;
    let (keys, maintain) =
        Keys::maintain(client.clone(), options.agent_namespace.clone(), options.contents_host.clone());
    let server = Server::new(
        client.clone(),
        keys.clone(),
        &options.agent_namespace,
        &options.agent_service_account,
        options.watch_namespace.clone(),
    );
    // Every replica serves contents, the leader or not.
    let (contents_address, answer) = server.listen(options.contents_listen).await?;
    tokio::spawn(maintain);
    tokio::spawn(answer);
    tracing::info!(ops = %ops_address, contents = %contents_address, "started");

    let stop = stop(ops.clone())?.shared();
    let leadership = match (options.leader_elect, &options.pod_name) {
        (true, Some(name)) => {
            let candidate = Candidate::new(client.clone(), &options.agent_namespace, name.clone());
            tokio::select! {
                // A standby is ready: it waits for the lease alone.
                leadership = candidate.acquire(|| ops.set_ready(true)) => {
                    // So is the leader, even if a namespace cannot be read and its caches never sync.
                    ops.set_ready(true);
                    Some(leadership)
                }
                () = stop.clone() => return Ok(()),
            }
        }
        _ => None,
    };
    let work = controllers(&client, &options, &counters, &keys, ops, stop)?;
    let Some(mut leadership) = leadership else {
        work.await;
        return Ok(());
    };
    tokio::select! {
        () = work => {}
        lost = leadership.renew_until_lost() => return Err(lost.into()),
    }
    leadership.release().await;
    Ok(())
}

/// Completes at SIGTERM or SIGINT, and marks the process as not ready.
fn stop(ops: Ops) -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        ops.set_ready(false);
    })
}

/// Builds the controllers: one for all namespaces, or one for each watched namespace.
fn controllers(
    client: &kube::Client,
    options: &Options,
    counters: &Counters,
    keys: &Keys,
    ops: Ops,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) -> anyhow::Result<impl Future<Output = ()>> {
    let registry = RegistryClient::new(ClientOptions {
        insecure_registries: options.insecure_registry.clone(),
        docker_config: options.docker_config.clone(),
        ..ClientOptions::default()
    })?;
    let namespaces = options.watch_namespace.iter().map(|namespace| Some(namespace.as_str()));
    let scopes: Vec<_> = if options.watch_namespace.is_empty() { vec![None] } else { namespaces.collect() };
    let mut controllers = Vec::new();
    let mut synced = Vec::new();
    for scope in scopes {
        let (controller, context) =
            controller(client, options, scope, counters, keys, registry.clone(), stop.clone());
        controllers.push(controller);
        synced.push(async move {
            let is_synced = context.caches.wait_until_synced().await;
            if is_synced {
                let _ = context.synced.set(());
            }
            is_synced
        });
    }
    let ready = async move {
        if join_all(synced).await.into_iter().all(|is_synced| is_synced) {
            // A stopping process stays not ready.
            tokio::select! {
                biased;
                () = stop => {}
                () = std::future::ready(()) => ops.set_ready(true),
            }
        }
    };
    Ok(async move {
        tokio::join!(join_all(controllers), ready);
    })
}

/// Builds the controller of the plugins in one namespace, or in all.
fn controller(
    client: &kube::Client,
    options: &Options,
    scope: Option<&str>,
    counters: &Counters,
    keys: &Keys,
    registry: RegistryClient,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> (impl Future<Output = ()>, Arc<Context>) {
    let (revisions, revision_events) = observe::owned(client.clone(), scope);
    let (assignments, assignment_events) = observe::owned(client.clone(), scope);
    let (services, service_events) = observe::owned(client.clone(), scope);
    let (slices, slice_events) = observe::owned(client.clone(), scope);
    let (nodes, node_events) = observe::cached::<Node>(Api::all(client.clone()), watcher::Config::default());
    let agents_of = watcher::Config::default().labels(&options.agent_selector);
    let (agents, agent_events) =
        observe::cached::<Pod>(Api::namespaced(client.clone(), &options.agent_namespace), agents_of);
    let node_changes = changes(nodes.clone(), node_events, NodeFacts::of);
    let agent_changes = changes(agents.clone(), agent_events, place::agent);
    let context = Arc::new(Context {
        caches: Caches { revisions, assignments, services, slices, nodes, agents },
        synced: SetOnce::new(),
        versions: Versions::new(keys.clone()),
        resolver: Resolver::new(registry),
        recorder: events::recorder(client.clone()),
        counters: counters.clone(),
        backoffs: Mutex::default(),
        client: client.clone(),
    });
    let plugins: Api<DeserializeGuard<WasmPlugin>> = observe::scoped(client.clone(), scope);
    let controller = Controller::new(plugins, watcher::Config::default());
    let relists = || {
        let context = Arc::clone(&context);
        move || context.versions.changed()
    };
    let config_maps = observe::watch_metadata::<ConfigMap>(client.clone(), scope, relists());
    let secrets = observe::watch_metadata::<Secret>(client.clone(), scope, relists());
    let of_config_map = plugins_naming(ObjectKind::ConfigMap, controller.store(), Arc::clone(&context));
    let of_secret = plugins_naming(ObjectKind::Secret, controller.store(), Arc::clone(&context));
    let controller = controller
        .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY))
        .owns_stream(revision_events)
        .owns_stream(assignment_events)
        .owns_stream(service_events)
        .owns_stream(slice_events)
        .watches_stream(config_maps, of_config_map)
        .watches_stream(secrets, of_secret)
        .reconcile_all_on(node_changes)
        .reconcile_all_on(agent_changes)
        .graceful_shutdown_on(stop)
        .run(reconcile, |guard, error, context| error_policy(&guard, error, &context), Arc::clone(&context))
        // `error_policy` has logged the failures.
        .for_each(|_| std::future::ready(()));
    (controller, context)
}

type Plugin = DeserializeGuard<WasmPlugin>;

/// Maps a changed object to the plugins that name it, and invalidates the cached versions of contents.
fn plugins_naming<K>(
    kind: ObjectKind,
    plugins: Store<Plugin>,
    context: Arc<Context>,
) -> impl Fn(PartialObjectMeta<K>) -> Vec<ObjectRef<Plugin>> + Send + Sync + 'static {
    move |object| {
        let namespace = object.metadata.namespace;
        let object = LocalObject { kind, name: object.metadata.name.unwrap_or_default() };
        let names = |plugin: &Plugin| {
            let spec = plugin.0.as_ref().ok().map(|plugin| &plugin.spec);
            plugin.namespace() == namespace
                && spec.is_some_and(|spec| spec.template.objects().contains(&object))
        };
        let naming: Vec<_> = plugins
            .state()
            .iter()
            .filter(|plugin| names(plugin))
            .map(|plugin| ObjectRef::from_obj(&**plugin))
            .collect();
        if !naming.is_empty() {
            context.versions.changed();
        }
        naming
    }
}
