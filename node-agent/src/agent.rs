//! The agent: makes what runs equal to what is wanted, and serves it.

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

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Where calls are taken.
    pub listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are.
    pub ops_listen: SocketAddr,
    /// Where modules and artifacts are kept.
    pub state_dir: PathBuf,
    /// How to reach registries.
    pub registry: ClientOptions,
    /// Who knows what ConfigMaps and Secrets hold; `None` where that is part of what is wanted.
    pub operator: Option<OperatorOptions>,
    /// Compiles at once.
    pub max_compiles: usize,
    /// Instances at once, over all plugins.
    pub max_instances: u32,
    /// How much memory and disk it may take.
    pub bounds: Bounds,
    /// What it knows of the network around it.
    pub network: NetworkOptions,
    /// Where modules are compiled.
    pub compiler: Compiler,
    /// How long calls may go on after draining starts.
    pub drain_deadline: Duration,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The port for operators is taken.
    #[error(transparent)]
    OpsListen(#[from] ListenError),
    /// The state directory cannot be used.
    #[error("the state directory {} cannot be used: {source}; choose another with --state-dir", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The threads that serve cannot be made.
    #[error("the threads that serve calls cannot be started: {0}")]
    Threads(#[source] io::Error),
    /// The WebAssembly engine does not start.
    #[error(transparent)]
    Engine(#[from] samovar_runtime::EngineError),
    /// The artifact cache cannot be used.
    #[error(transparent)]
    Cache(#[from] samovar_runtime::CacheError),
    /// The registry client cannot be made.
    #[error(transparent)]
    Registry(#[from] samovar_registry::Error),
}

/// A running agent.
pub struct Agent {
    /// Where calls are taken.
    pub address: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are.
    pub ops_address: SocketAddr,
    reports: Reports,
    ops: Ops,
    server: Arc<Server>,
    serving: JoinHandle<()>,
    control: JoinHandle<()>,
    trimming: JoinHandle<()>,
    /// Where `serving` runs.
    _guests: GuestRuntime,
}

impl Agent {
    /// Starts serving what `desired` says, now and whenever it changes. To be called in a tokio runtime, which
    /// only controls: calls are served on another.
    pub fn start(options: AgentOptions, desired: watch::Receiver<Desired>) -> Result<Self, StartError> {
        // All of them by name, so that the compiler finds one that is forgotten.
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
                    Err(error) => tracing::error!(%error, "the port for calls did not open"),
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

    /// What is true of each revision.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// What `/readyz` answers.
    pub fn set_ready(&self, ready: bool) {
        self.ops.set_ready(ready);
    }

    /// Takes no more connections, lets what runs finish, then stops.
    pub async fn shutdown(mut self) {
        self.ops.set_ready(false);
        self.server.draining.send_replace(true);
        let _ = (&mut self.serving).await;
    }
}

/// How often freed memory is given back to the system. Short beside the time that calls take to free much.
const TRIM_INTERVAL: Duration = Duration::from_millis(250);

async fn trim_periodically(memory: MemoryBudget) {
    let mut interval = tokio::time::interval(TRIM_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        memory.trim_freed();
    }
}

/// An agent that is dropped without a shutdown stops at once.
impl Drop for Agent {
    fn drop(&mut self) {
        self.control.abort();
        self.trimming.abort();
    }
}

/// The loop that makes what runs equal to what is wanted.
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
    /// Its module, where this agent has it, whether it is loaded or not.
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
        // Bounded by what runs: each revision sends once.
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
                    // Whoever said what is wanted is gone; what runs goes on.
                    Err(_) => std::future::pending().await,
                },
                Some((key, revision, loaded)) = self.loaded.recv() => self.serve(&key, &revision, loaded),
                // Why a plugin is not ready is part of its route.
                Ok(()) = reports.changed() => self.publish(),
            }
        }
    }

    fn apply(&mut self, desired: &Desired) {
        let running = self.running.iter().map(|(key, running)| (key.clone(), Arc::clone(&running.revision)));
        let Plan { start, stop } = plan(desired, &running.collect());
        // Replaced ones leave the table before they are closed, so that calls find the next one.
        let mut stopped: Vec<_> = stop.iter().filter_map(|key| self.running.remove_entry(key)).collect();
        // What is wanted again stays in use throughout; what is not makes room for what is loaded next.
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

    /// The module of a revision, where this agent has it.
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
            // Let go while it loaded.
            return loaded.plugin.close();
        };
        let Loaded { plugin, module, functions, load_stats } = loaded;
        tracing::info!(plugin = %key, ?load_stats, "ready");
        self.loader.metrics.loaded("ok");
        let serving = Serving::new(key, revision, plugin, &self.loader.metrics);
        running.serving = Some(Arc::new(serving));
        running.module = Some(module);
        // The table first: whoever reads that it is ready must find it so.
        self.publish();
        let report = Report { functions, load_stats: Some(load_stats), ..Report::of(State::Ready) };
        self.reports.set(key, report);
    }

    fn publish(&self) {
        let loaded = self.running.values().filter_map(|running| running.serving.as_ref());
        let reports = self.reports.all();
        let not_ready = self.running.keys().map(|key| {
            let why = reports.get(key).map_or_else(
                || "it is about to be loaded".to_owned(),
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
            // What is still loading may have it.
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
/// The longest delay for what may come back at any moment.
const OFTEN: Duration = Duration::from_secs(15);
/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// Loads a revision, again and again while that may help. `None` where only a change can.
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
        // A retry keeps the report of why it failed until it gets further than that.
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
