//! Control: the loop that reconciles the running revisions with the desired ones.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use samovar_crds::{Reason, State};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    backoff::Backoff,
    desired::{Desired, DesiredRevision, Key, Source},
    disk::Pin,
    load::{
        Loaded, Loader,
        failure::{Failure, Retry},
    },
    plan::{Plan, plan},
    reports::{Report, Reports},
    server::{
        Server,
        routes::{RouteTable, Serving},
    },
};

/// The state of the loop.
pub(crate) struct Control {
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
    pub(crate) fn new(loader: Arc<Loader>, server: Arc<Server>, reports: Reports) -> Self {
        // Bounded by the running revisions: each sends once.
        let (done, loaded) = mpsc::unbounded_channel();
        Self { loader, server, reports, running: BTreeMap::new(), done, loaded }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self, mut desired: watch::Receiver<Desired>) {
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
