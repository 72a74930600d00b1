//! Reconciling one plugin: a row of steps.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{
    Client, ResourceExt as _,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::{controller::Action, events::Recorder},
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use samovar_crds::WasmPlugin;
use tokio::sync::SetOnce;

use crate::{
    apply, build,
    contents::{self, Versions},
    events,
    observe::Caches,
    place::place,
    resolve::Resolver,
    status::{self, status},
    validate::validate,
};

/// What every reconcile shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    /// Set once the caches are filled.
    pub(crate) filled: SetOnce<()>,
    pub(crate) versions: Versions,
    pub(crate) resolver: Resolver,
    pub(crate) recorder: Recorder,
    pub(crate) counters: Counters,
    /// Tries in a row that failed, by UID.
    pub(crate) tries: Mutex<HashMap<String, u32>>,
}

/// What the operator counts.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    reconciles: Counter,
    failures: Counter,
}

impl Counters {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let counters = Self::default();
        registry.register("reconciles", "Reconciles of plugins", counters.reconciles.clone());
        registry.register("reconcile_failures", "Reconciles that failed", counters.failures.clone());
        counters
    }
}

/// Why a plugin could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not of this version's form. It is left as it is until it changes.
    #[error("the plugin cannot be read: {0}")]
    Unreadable(#[source] Box<InvalidObject>),
    /// What it names could not be read.
    #[error(transparent)]
    Contents(#[from] contents::ReadError),
    /// A write was not taken.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The status was not taken.
    #[error(transparent)]
    Status(#[from] status::Error),
}

/// One plugin: observe, validate, see which contents it names, resolve, place, build, apply, say what is true.
pub(crate) async fn reconcile(
    guard: Arc<DeserializeGuard<WasmPlugin>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    context.counters.reconciles.inc();
    let plugin = guard.0.as_ref().map_err(|error| Error::Unreadable(Box::new(error.clone())))?;
    if plugin.metadata.deletion_timestamp.is_some() {
        // The garbage collector takes what is owned.
        return Ok(Action::await_change());
    }
    context.filled.wait().await;
    let namespace = plugin.namespace().unwrap_or_default();
    // Observe (no client required): the caches that watches fill.
    let observed = context.caches.observe(plugin);
    // Validate (no client required).
    let valid = validate(plugin);
    // Contents (client required): reads the ConfigMaps and Secrets that the plugin names, if they may have changed.
    let contents = context.versions.of(&context.client, plugin).await?;
    // Resolve (registry client required): asks the image's registry, if spec, contents and revisions leave it open.
    let resolution = context.resolver.resolve(plugin, valid, contents, &observed.revisions).await;
    // Place (no client required).
    let carries =
        |node: &str| observed.assignments.iter().any(|assignment| assignment.spec.node_name == node);
    let placement = place(plugin, &observed.nodes, &observed.agents, carries);
    // Build (no client required).
    let prepared = build::build(plugin, resolution.revision.as_ref(), &placement, &observed);
    // Apply (client required): writes the objects that differ.
    let applied = apply::apply(&context.client, &namespace, &observed, prepared).await?;
    // Status (no client required), then its write and the Event (client required).
    let next = status(plugin, &resolution, &placement, &observed.assignments, &applied);
    status::write(&context.client, plugin, &next).await?;
    events::publish(&context.recorder, plugin, &next).await;
    context.succeeded(&plugin.uid().unwrap_or_default());
    Ok(resolution.requeue_after.map_or_else(Action::await_change, Action::requeue))
}

/// The first wait after a failed write; it doubles with each.
const FIRST: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_mins(2);

/// What comes after a failure: a broken object waits for a change, everything else is tried again, later each time.
pub(crate) fn after(guard: &DeserializeGuard<WasmPlugin>, error: &Error, context: &Context) -> Action {
    context.counters.failures.inc();
    let name = format!("{}/{}", guard.namespace().unwrap_or_default(), guard.name_any());
    match error {
        Error::Unreadable(_) => {
            tracing::error!(plugin = %name, %error, "left as it is until it changes");
            Action::await_change()
        }
        Error::Contents(_) | Error::Apply(_) | Error::Status(_) => {
            let wait = context.failed(&guard.uid().unwrap_or_default());
            tracing::warn!(plugin = %name, %error, "tried again in {} ms", wait.as_millis());
            Action::requeue(wait)
        }
    }
}

impl Context {
    fn succeeded(&self, uid: &str) {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn failed(&self, uid: &str) -> Duration {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let tried = tries.entry(uid.to_owned()).or_default();
        *tried += 1;
        let wait = FIRST.saturating_mul(1 << (*tried - 1).min(10)).min(LONGEST);
        wait.mul_f64(rand::random_range(0.8..1.2))
    }
}
