//! Reconciles one plugin: a row of steps.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
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

/// The state that all reconciles share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    /// Set once the caches have synced.
    pub(crate) synced: SetOnce<()>,
    pub(crate) versions: Versions,
    pub(crate) resolver: Resolver,
    pub(crate) recorder: Recorder,
    pub(crate) counters: Counters,
    /// The backoffs of plugins whose last reconcile failed, by UID.
    pub(crate) backoffs: Mutex<HashMap<String, ExponentialBackoff>>,
}

/// The operator's own metrics.
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

/// The failure of a reconcile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The plugin does not fit this version's types. It is not reconciled until it changes.
    #[error("cannot parse the plugin: {0}")]
    Unreadable(#[source] Box<InvalidObject>),
    /// A ConfigMap or a Secret that the plugin names could not be read.
    #[error(transparent)]
    Contents(#[from] contents::ReadError),
    /// An object could not be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] status::Error),
}

/// Reconciles one plugin: observe, validate, contents, resolve, place, build, apply, status.
pub(crate) async fn reconcile(
    guard: Arc<DeserializeGuard<WasmPlugin>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    context.counters.reconciles.inc();
    let plugin = guard.0.as_ref().map_err(|error| Error::Unreadable(Box::new(error.clone())))?;
    if plugin.metadata.deletion_timestamp.is_some() {
        // The garbage collector deletes the owned objects.
        return Ok(Action::await_change());
    }
    context.synced.wait().await;
    let namespace = plugin.namespace().unwrap_or_default();
    // Observe (no client required): reads the caches that watches fill.
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

/// The delays between the retries of a failing plugin double from 0.5 s. The jitter adds up to the delay itself, so
/// that none is longer than 2 min.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_mins(1))
    .with_jitter()
    .without_max_times();

/// Requeues after a failure: an unreadable plugin waits for a change, everything else is retried with backoff.
pub(crate) fn error_policy(guard: &DeserializeGuard<WasmPlugin>, error: &Error, context: &Context) -> Action {
    context.counters.failures.inc();
    let name = format!("{}/{}", guard.namespace().unwrap_or_default(), guard.name_any());
    match error {
        Error::Unreadable(_) => {
            tracing::error!(plugin = %name, %error, "not reconciled until the plugin changes");
            Action::await_change()
        }
        Error::Contents(_) | Error::Apply(_) | Error::Status(_) => {
            let wait = context.failed(&guard.uid().unwrap_or_default());
            tracing::warn!(plugin = %name, %error, "reconcile failed; retrying in {} ms", wait.as_millis());
            Action::requeue(wait)
        }
    }
}

impl Context {
    fn succeeded(&self, uid: &str) {
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn failed(&self, uid: &str) -> Duration {
        let mut backoffs = self.backoffs.lock().unwrap_or_else(PoisonError::into_inner);
        let backoff = backoffs.entry(uid.to_owned()).or_insert_with(|| BACKOFF.build());
        backoff.next().expect("the number of delays has no limit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_half_a_second_to_two_minutes_at_most() {
        let delays: Vec<_> = BACKOFF.build().take(12).collect();
        assert!((500..=1000).contains(&delays[0].as_millis()), "{delays:?}");
        assert!((32..=64).contains(&delays[6].as_secs()), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= Duration::from_mins(2)), "{delays:?}");
        assert!(delays[11] >= Duration::from_mins(1), "{delays:?}");
    }
}
