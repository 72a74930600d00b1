//! The agent: reconciles the running revisions with the desired ones, and serves them.

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use samovar_crds::{Reason, State};
use samovar_registry::{Client, ClientOptions};
use samovar_runtime::{ArtifactCache, Compiler, Engine, EngineOptions, MemoryBudget, NetworkOptions};
use samovar_telemetry::ops::{ListenError, Ops};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};

use crate::{
    backoff::Backoff,
    desired::{Desired, DesiredRevision, Key, Source},
    disk::{Cache, Pin, modules::Modules},
    guest_runtime::GuestRuntime,
    load::{
        Loaded, Loader, MODULES_HELD, SingleFlight,
        contents::{Operator, OperatorOptions},
        failure::{Failure, Retry},
    },
    options::Bounds,
    plan::{Plan, plan},
    reports::{Report, Reports},
    server::{
        Server, connections,
        gauges::Gauges,
        metrics::{self, Metrics},
        routes::{RouteTable, Serving},
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

/// The loop that reconciles the running revisions with the desired ones.
struct Control {
    loader: Arc<Loader>,
    server: Arc<Server>,
    reports: Reports,
    running: BTreeMap<Key, Running>,
    done: mpsc::UnboundedSender<(Key, Arc<DesiredRevision>, Loaded)>,
    loaded: mpsc::UnboundedReceiver<(Key, Arc<DesiredRevision>, Loaded)>,
}

struct Running {
    revision: Arc<DesiredRevision>,
    load: JoinHandle<()>,
    serving: Option<Arc<Serving>>,
    /// Keeps the module in the cache, from before the load on if it is there already.
    module: Option<Pin>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.load.abort();
        if let Some(serving) = &self.serving {
            serving.runs.close();
        }
    }
}

impl Control {
    fn new(loader: Arc<Loader>, server: Arc<Server>, reports: Reports) -> Self {
        // Bounded by the running revisions: each sends once.
        let (done, loaded) = mpsc::unbounded_channel();
        Self { loader, server, reports, running: BTreeMap::new(), done, loaded }
    }

    async fn run(mut self, mut desired: watch::Receiver<Desired>) {
        let mut reports = self.reports.subscribe();
        self.apply(&desired.borrow_and_update().clone());
        loop {
            tokio::select! {
                changed = desired.changed() => match changed {
                    Ok(()) => self.apply(&desired.borrow_and_update().clone()),
                    // The sender is gone: the running revisions go on.
                    Err(_) => std::future::pending().await,
                },
                Some((key, revision, loaded)) = self.loaded.recv() => self.serve(&key, &revision, loaded),
                // The route of a plugin that is not ready contains its report.
                Ok(()) = reports.changed() => self.publish(),
            }
        }
    }

    fn apply(&mut self, desired: &Desired) {
        let running = self.running.iter().map(|(key, running)| (key.clone(), Arc::clone(&running.revision)));
        let Plan { start, stop } = plan(desired, &running.collect());
        // Replaced revisions leave the route table before they are closed, so that calls find their successors.
        let mut stopped: Vec<_> = stop.iter().filter_map(|key| self.running.remove_entry(key)).collect();
        // New revisions pin their modules before stopped ones release theirs: a module of both stays in the cache, and
        // the others make room for the loads.
        let start: Vec<_> =
            start.into_iter().map(|(key, revision)| (key, self.pin(&revision), revision)).collect();
        for (_, stopped) in &mut stopped {
            stopped.module = None;
        }
        for (key, module, revision) in start {
            self.start(key, revision, module);
        }
        self.publish();
        for (key, stopped) in stopped {
            if !self.running.contains_key(&key) {
                self.reports.remove(&key);
            }
            self.forget_metrics(&key, &stopped);
        }
        self.loader.cache.shrink();
    }

    /// Pins the module of a revision, if the cache has it.
    fn pin(&self, revision: &DesiredRevision) -> Option<Pin> {
        let cache = &self.loader.cache;
        let digest = match &revision.source {
            Source::Module { digest, .. } => *digest,
            Source::Image(image) => {
                cache.modules.of_image(image, revision.template.module_path.as_deref())?
            }
        };
        Some(cache.pin(&digest))
    }

    fn start(&mut self, key: Key, revision: Arc<DesiredRevision>, module: Option<Pin>) {
        tracing::info!(plugin = %key, "loading");
        let load = {
            let (loader, reports, done) = (Arc::clone(&self.loader), self.reports.clone(), self.done.clone());
            let (key, revision) = (key.clone(), Arc::clone(&revision));
            tokio::spawn(async move {
                if let Some(loaded) = load_with_retries(&loader, &reports, &key, &revision).await {
                    let _ = done.send((key, revision, loaded));
                }
            })
        };
        self.running.insert(key, Running { revision, load, serving: None, module });
    }

    fn serve(&mut self, key: &Key, revision: &Arc<DesiredRevision>, loaded: Loaded) {
        let Some(running) = self.running.get_mut(key).filter(|running| running.revision == *revision) else {
            // Stopped while it loaded.
            return loaded.plugin.close();
        };
        let Loaded { plugin, module, functions, load_stats } = loaded;
        tracing::info!(plugin = %key, ?load_stats, "ready");
        self.loader.metrics.loaded("ok");
        let serving = Serving::new(key, revision, plugin, &self.loader.metrics);
        running.serving = Some(Arc::new(serving));
        running.module = Some(module);
        // The table first: whoever reads that the revision is ready must be able to call it.
        self.publish();
        let report = Report { functions, load_stats: Some(load_stats), ..Report::of(State::Ready) };
        self.reports.set(key, report);
    }

    fn publish(&self) {
        let loaded = self.running.values().filter_map(|running| running.serving.as_ref());
        let reports = self.reports.all();
        let not_ready = self.running.keys().map(|key| {
            let why = reports.get(key).map_or_else(
                || "its load has not started yet".to_owned(),
                |report| format!("{}: {}", report.reason, report.message),
            );
            (key.namespace.as_str(), key.plugin.as_str(), why)
        });
        let table = RouteTable::new(loaded, not_ready);
        self.loader.metrics.plugins.set(i64::try_from(table.serving().count()).unwrap_or(i64::MAX));
        self.server.routes.store(Arc::new(table));
    }

    fn forget_metrics(&self, key: &Key, stopped: &Running) {
        let Some(stopped) = &stopped.serving else { return };
        let same_plugin = |other: &Key| (&other.namespace, &other.plugin) == (&key.namespace, &key.plugin);
        let others: Vec<_> = self.running.iter().filter(|(other, _)| same_plugin(other)).collect();
        for function in stopped.runs.functions() {
            // A revision that is still loading may have the function.
            let has = |running: &Running| {
                running.serving.as_ref().is_none_or(|other| other.endpoint(function.name()).is_some())
            };
            if !others.iter().any(|(_, running)| has(running)) {
                self.loader.metrics.forget(&key.namespace, &key.plugin, function.name());
            }
        }
    }
}

/// The first delay after a failure that may pass; it doubles with each.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest delay after a failure that may pass at any moment.
const OFTEN: Duration = Duration::from_secs(15);
/// The longest delay after any other failure.
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// Loads a revision, with retries. `None` if only a change of the revision can help.
async fn load_with_retries(
    loader: &Loader,
    reports: &Reports,
    key: &Key,
    revision: &DesiredRevision,
) -> Option<Loaded> {
    let mut soon = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut often = Backoff::new(FIRST_DELAY, OFTEN);
    let mut slowly = Backoff::new(LONGEST_DELAY, LONGEST_DELAY);
    let mut failed_before = false;
    loop {
        // The report of a failure stays until a retry gets as far as to warm up.
        let progress = |state| {
            if !failed_before || state == State::Warming {
                reports.set(key, Report::of(state));
            }
        };
        let Failure { reason, message, retry } = match loader.load(key, revision, &progress).await {
            Ok(loaded) => return Some(loaded),
            Err(failure) => failure,
        };
        loader.metrics.loaded(reason.as_str());
        tracing::warn!(plugin = %key, %reason, "{message}");
        failed_before = true;
        reports.set(key, failed(reason, message));
        let delay = match retry {
            Retry::Never => return None,
            Retry::Slowly => slowly.delay(),
            Retry::Often => often.delay(),
            Retry::Soon(asked) => asked.unwrap_or_default().min(LONGEST_DELAY) + soon.delay(),
        };
        tokio::time::sleep(delay).await;
    }
}

fn failed(reason: Reason, message: String) -> Report {
    Report { state: State::Failed, reason, message, functions: Vec::new(), load_stats: None }
}
