//! The agent: its options, its start with all its parts, and its shutdown.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use samovar_registry::{Client, ClientOptions};
use samovar_runtime::{ArtifactCache, Compiler, Engine, EngineOptions, MemoryBudget, NetworkOptions};
use samovar_telemetry::ops::{ListenError, Ops};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};

use crate::{
    control::Control,
    desired::Desired,
    disk::{Cache, modules::Modules},
    guest_runtime::GuestRuntime,
    load::{
        Loader, MODULES_HELD, SingleFlight,
        contents::{Operator, OperatorOptions},
    },
    options::Bounds,
    reports::Reports,
    server::{
        Server, connections,
        gauges::Gauges,
        metrics::{self, Metrics},
    },
};

/// The options of an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The address that takes calls.
    pub listen: SocketAddr,
    /// The address of the admin port: `/healthz`, `/readyz` and `/metrics`.
    pub ops_listen: SocketAddr,
    /// The directory of modules and artifacts.
    pub state_dir: PathBuf,
    /// The options of the registry client.
    pub registry: ClientOptions,
    /// Access to the operator, for contents; `None` if the desired state has them.
    pub operator: Option<OperatorOptions>,
    /// The most concurrent compiles.
    pub max_compiles: usize,
    /// The most instances at once, over all plugins.
    pub max_instances: u32,
    /// Bounds on memory, disk and compiling.
    pub bounds: Bounds,
    /// The closed networks and the name servers of guests.
    pub network: NetworkOptions,
    /// The compiler of modules, in a child process or in this one.
    pub compiler: Compiler,
    /// The time that running calls get after draining starts.
    pub drain_deadline: Duration,
}

/// The reason that an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address for calls cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The admin port cannot be bound.
    #[error(transparent)]
    OpsListen(#[from] ListenError),
    /// The state directory cannot be used.
    #[error("the state directory {} cannot be used: {source}; choose another with --state-dir", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The runtime of guests cannot be started.
    #[error("the threads that serve calls cannot be started: {0}")]
    Threads(#[source] io::Error),
    /// The WebAssembly engine does not start.
    #[error(transparent)]
    Engine(#[from] samovar_runtime::EngineError),
    /// The artifact cache cannot be used.
    #[error(transparent)]
    Cache(#[from] samovar_runtime::CacheError),
    /// The registry client cannot be created.
    #[error(transparent)]
    Registry(#[from] samovar_registry::Error),
}

/// A running agent.
pub struct Agent {
    /// The address that takes calls.
    pub address: SocketAddr,
    /// The address of the admin port: `/healthz`, `/readyz` and `/metrics`.
    pub ops_address: SocketAddr,
    reports: Reports,
    ops: Ops,
    server: Arc<Server>,
    serving: JoinHandle<()>,
    control: JoinHandle<()>,
    trimming: JoinHandle<()>,
    /// The runtime of `serving`.
    _guests: GuestRuntime,
}

impl Agent {
    /// Starts to serve `desired`, now and after each change. Call it in a tokio runtime: that one only controls, since
    /// calls are served on a runtime of their own.
    pub fn start(options: AgentOptions, desired: watch::Receiver<Desired>) -> Result<Self, StartError> {
        // Without `..`, so that the compiler finds an option that nothing uses.
        let AgentOptions {
            listen,
            ops_listen,
            state_dir,
            registry,
            operator,
            max_compiles,
            max_instances,
            bounds,
            network,
            compiler,
            drain_deadline,
        } = options;
        let state = |source| StartError::State { path: state_dir.clone(), source };
        std::fs::create_dir_all(&state_dir).map_err(state)?;
        let modules = Modules::open(&state_dir).map_err(state)?;
        let engine =
            Engine::new(&EngineOptions { instances: max_instances, memory: bounds.memory(), network })?;
        let artifacts = ArtifactCache::open(state_dir.join("artifacts"), engine.clone(), compiler)?;
        let mut metrics_registry = Registry::default();
        let metrics = Metrics::new(&mut metrics_registry);
        let cache = Cache::new(modules, artifacts, bounds.cache_size.bytes(), metrics.cache_bytes.clone());
        let guests = GuestRuntime::start().map_err(StartError::Threads)?;
        let refused = |source| StartError::Listen { address: listen, source };
        let listener = connections::listen(listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let server = Server::new(metrics.clone(), engine.memory().clone());
        let trimming = tokio::spawn(trim_periodically(engine.memory().clone()));
        metrics::prefixed(&mut metrics_registry).register_collector(Box::new(Gauges::new(&server)));
        let ops = Ops::new(metrics_registry);
        let ops_address = ops.serve(ops_listen)?;
        let serving = {
            let server = Arc::clone(&server);
            guests.handle().spawn(async move {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => connections::serve(server, listener, drain_deadline).await,
                    Err(error) => tracing::error!(%error, "the port for calls cannot be opened"),
                }
            })
        };
        let reports = Reports::default();
        let loader = Arc::new(Loader {
            engine,
            cache: Arc::new(cache),
            registry: Client::new(registry)?,
            modules_held: Semaphore::new(MODULES_HELD),
            compiles: Semaphore::new(max_compiles.max(1)),
            flights: SingleFlight::default(),
            operator: operator.map(Operator::new),
            guests: guests.handle().clone(),
            metrics,
        });
        let control = Control::new(loader, Arc::clone(&server), reports.clone());
        let control = tokio::spawn(control.run(desired));
        Ok(Self { address, ops_address, reports, ops, server, serving, control, trimming, _guests: guests })
    }

    /// The latest report of each revision.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Sets the answer of `/readyz`.
    pub fn set_ready(&self, ready: bool) {
        self.ops.set_ready(ready);
    }

    /// Accepts no more connections, lets running calls finish until the drain deadline, then stops.
    pub async fn shutdown(mut self) {
        self.ops.set_ready(false);
        self.server.draining.send_replace(true);
        let _ = (&mut self.serving).await;
    }
}

/// The interval in which freed memory is returned to the system. Short beside the time that calls take to free much.
const TRIM_INTERVAL: Duration = Duration::from_millis(250);

async fn trim_periodically(memory: MemoryBudget) {
    let mut interval = tokio::time::interval(TRIM_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        memory.trim_freed();
    }
}

/// Dropping an agent without a shutdown stops it at once.
impl Drop for Agent {
    fn drop(&mut self) {
        self.control.abort();
        self.trimming.abort();
    }
}
