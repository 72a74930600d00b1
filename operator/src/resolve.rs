//! Resolves a plugin to its newest revision, and asks the registry only if it must.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt as _;
use samovar_crds::{ImagePullPolicy, PluginTemplate, Reason, WasmPlugin};
use samovar_registry::{Client, Error as RegistryError, Reference};
use tokio::sync::Semaphore;

use crate::{
    contents::{ContentsVersion, Unavailable},
    revision::{Revision, RevisionData},
    validate::{Invalid, Valid},
};

/// The revision to run, and its relation to the spec.
#[derive(Debug, PartialEq)]
pub(crate) struct Resolution {
    /// The newest revision: the spec's own, or the previous one if the spec's failed to resolve or is held back.
    pub(crate) revision: Option<Revision>,
    pub(crate) outcome: Outcome,
    /// The delay after which to reconcile again without a change.
    pub(crate) requeue_after: Option<Duration>,
}

/// The relation of the newest revision to the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The newest revision is the spec's.
    Current,
    /// The plugin is paused: the spec's revision is held back.
    Paused,
    /// The spec's revision failed to resolve.
    Failed(Reason, String),
}

/// Resolves tags through registries, and caches the time of each plugin's next lookup.
pub(crate) struct Resolver {
    registry: Client,
    /// Bounds the concurrent requests to registries.
    slots: Semaphore,
    lookups: Mutex<HashMap<String, LastLookup>>,
}

/// The last lookup for one plugin.
struct LastLookup {
    template: PluginTemplate,
    not_before: Instant,
    failure: Option<(Reason, String)>,
    /// The delays after failures; unused after a success.
    backoff: ExponentialBackoff,
}

/// The requeue delay while contents fail for a reason that no watch reports: the operator's key and its rights.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The interval of lookups of an `Always` tag, and of those after a failure that only a person can fix.
const RECHECK_INTERVAL: Duration = Duration::from_mins(5);
/// The delays between requests to an unavailable registry double from 1 s. The jitter adds up to the delay itself, so
/// that none is longer than `RECHECK_INTERVAL`.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(RECHECK_INTERVAL.as_secs() / 2))
    .with_jitter()
    .without_max_times();
/// Plugins in the cache. Beyond it, those whose lookup is due are dropped.
const CACHE_ENTRIES: usize = 10_000;

impl Resolver {
    pub(crate) fn new(registry: Client) -> Self {
        Self { registry, slots: Semaphore::new(8), lookups: Mutex::default() }
    }

    /// Resolves the revision to run. `valid` is the verdict on the spec, and `contents` the version of the contents
    /// that it names; an error in either keeps the newest revision.
    pub(crate) async fn resolve(
        &self,
        plugin: &WasmPlugin,
        valid: Result<Valid, Invalid>,
        contents: ContentsVersion,
        revisions: &[Arc<ControllerRevision>],
    ) -> Resolution {
        let lookup = match decide(plugin, valid, contents, newest(revisions)) {
            Decision::Settled(resolution) => return resolution,
            Decision::Lookup(lookup) => lookup,
        };
        let (uid, template) = (plugin.uid().unwrap_or_default(), &plugin.spec.template);
        if let Some((failure, wait)) = self.not_due(&uid, template, lookup.is_current) {
            return match failure {
                Some(failure) => lookup.failed(failure, wait),
                None => Resolution::current(lookup.newest, Some(wait)),
            };
        }
        match self.look_up(template, &lookup.image).await {
            Ok(pinned) => {
                let requeue_after = lookup.is_periodic.then(|| {
                    self.record(uid, template, RECHECK_INTERVAL, None, BACKOFF.build());
                    RECHECK_INTERVAL
                });
                let image = pinned.to_string();
                let data = RevisionData { template: template.clone(), image, contents: lookup.contents };
                let revision = Revision::next(&plugin.name_any(), data, lookup.newest);
                Resolution::current(Some(revision), requeue_after)
            }
            Err(error) => {
                let wait = self.record_failure(&uid, template, &error);
                if lookup.is_current {
                    tracing::warn!(plugin = %plugin.name_any(), "{error}");
                }
                lookup.failed((reason(&error), error.to_string()), wait)
            }
        }
    }

    async fn look_up(
        &self,
        template: &PluginTemplate,
        image: &Reference,
    ) -> Result<Reference, RegistryError> {
        if template.image_pull_policy == Some(ImagePullPolicy::Never) {
            return Ok(image.clone());
        }
        let _slot = self.slots.acquire().await;
        self.registry.resolve(image).await
    }

    /// The last failure and the remaining delay, if the next lookup is not due yet. A changed template is due at
    /// once.
    fn not_due(
        &self,
        uid: &str,
        template: &PluginTemplate,
        is_current: bool,
    ) -> Option<(Option<(Reason, String)>, Duration)> {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let last = lookups.get(uid).filter(|last| last.template == *template);
        let Some(last) = last else {
            // This process did not resolve the current revision, and does not know its age: its interval starts
            // now.
            if is_current {
                let not_before = Instant::now() + RECHECK_INTERVAL;
                let backoff = BACKOFF.build();
                let last = LastLookup { template: template.clone(), not_before, failure: None, backoff };
                lookups.insert(uid.to_owned(), last);
                return Some((None, RECHECK_INTERVAL));
            }
            return None;
        };
        let wait = last.not_before.checked_duration_since(Instant::now())?;
        Some((last.failure.clone(), wait))
    }

    fn record_failure(&self, uid: &str, template: &PluginTemplate, error: &RegistryError) -> Duration {
        let mut backoff = {
            let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
            let last = lookups.remove(uid).filter(|last| last.template == *template);
            last.map_or_else(|| BACKOFF.build(), |last| last.backoff)
        };
        let wait = delay(error, &mut backoff);
        self.record(uid.to_owned(), template, wait, Some((reason(error), error.to_string())), backoff);
        wait
    }

    fn record(
        &self,
        uid: String,
        template: &PluginTemplate,
        wait: Duration,
        failure: Option<(Reason, String)>,
        backoff: ExponentialBackoff,
    ) {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        if lookups.len() >= CACHE_ENTRIES {
            let now = Instant::now();
            lookups.retain(|_, last| last.not_before > now);
        }
        let not_before = Instant::now() + wait;
        lookups.insert(uid, LastLookup { template: template.clone(), not_before, failure, backoff });
    }
}

/// The delay until the next lookup after `error`: at least a registry's `Retry-After`, and at most `RECHECK_INTERVAL`.
fn delay(error: &RegistryError, backoff: &mut ExponentialBackoff) -> Duration {
    let own = backoff.next().expect("the number of delays has no limit");
    let RegistryError::Unavailable { retry_after, .. } = error else { return RECHECK_INTERVAL };
    // With jitter too, since a registry gives all plugins the same delay.
    let asked = retry_after.and_then(|after| BACKOFF.with_min_delay(after).build().next());
    own.max(asked.unwrap_or_default()).min(RECHECK_INTERVAL)
}

/// The next step of a resolution.
#[derive(Debug, PartialEq)]
enum Decision {
    /// The revision is known without a registry.
    Settled(Resolution),
    /// A registry has to resolve the image.
    Lookup(Lookup),
}

/// A lookup that is due, and the facts for its outcome.
#[derive(Debug, PartialEq)]
struct Lookup {
    image: Reference,
    /// The version of the contents for the new revision.
    contents: Option<String>,
    newest: Option<Revision>,
    /// `newest` is the spec's revision already, and the lookup only shows if the tag has moved.
    is_current: bool,
    /// The pull policy is `Always`: the lookup is repeated.
    is_periodic: bool,
}

/// Settles the resolution if no registry is needed. Pure.
fn decide(
    plugin: &WasmPlugin,
    valid: Result<Valid, Invalid>,
    contents: ContentsVersion,
    newest: Option<Revision>,
) -> Decision {
    let template = &plugin.spec.template;
    let image = match valid {
        Ok(Valid { image }) => image,
        Err(invalid) => {
            let failure = (Reason::InvalidSpec, invalid.to_string());
            return Decision::Settled(Resolution::failed(newest, failure, None));
        }
    };
    let contents = match contents {
        ContentsVersion::None => None,
        ContentsVersion::Known(version) => Some(version),
        ContentsVersion::Unavailable(unavailable) => {
            // A watch reports an object that appears, but not the operator's own key and rights.
            let requeue_after = (!matches!(unavailable, Unavailable::Missing(_))).then_some(POLL_INTERVAL);
            let failure = (Reason::SecretUnavailable, unavailable.to_string());
            return Decision::Settled(Resolution::failed(newest, failure, requeue_after));
        }
    };
    let newest = newest.map(|newest| {
        let moved = newest.data.template == *template && newest.data.contents != contents;
        if !moved || plugin.spec.paused {
            return newest;
        }
        // Keeps the pinned image, since only the contents have changed.
        let data = RevisionData { contents: contents.clone(), ..newest.data.clone() };
        Revision::next(&plugin.name_any(), data, Some(newest))
    });
    let is_current = newest
        .as_ref()
        .is_some_and(|newest| newest.data.template == *template && newest.data.contents == contents);
    let is_periodic = pull_policy(template, &image) == ImagePullPolicy::Always;
    if is_current && (!is_periodic || plugin.spec.paused) {
        return Decision::Settled(Resolution::current(newest, None));
    }
    if plugin.spec.paused {
        let outcome = Outcome::Paused;
        return Decision::Settled(Resolution { revision: newest, outcome, requeue_after: None });
    }
    Decision::Lookup(Lookup { image, contents, newest, is_current, is_periodic })
}

impl Lookup {
    /// The resolution after a failed lookup. A current revision stays current if its tag cannot be resolved again.
    fn failed(self, failure: (Reason, String), wait: Duration) -> Resolution {
        if self.is_current {
            Resolution::current(self.newest, Some(wait))
        } else {
            Resolution::failed(self.newest, failure, Some(wait))
        }
    }
}

impl Resolution {
    fn current(revision: Option<Revision>, requeue_after: Option<Duration>) -> Self {
        Self { revision, outcome: Outcome::Current, requeue_after }
    }

    fn failed(
        revision: Option<Revision>,
        (reason, message): (Reason, String),
        requeue_after: Option<Duration>,
    ) -> Self {
        Self { revision, outcome: Outcome::Failed(reason, message), requeue_after }
    }
}

/// The newest of the readable revisions.
fn newest(revisions: &[Arc<ControllerRevision>]) -> Option<Revision> {
    let known = revisions.iter().filter_map(|revision| Revision::read(revision));
    known.max_by_key(|revision| revision.number)
}

/// The pull policy, with the kubelet's defaults.
fn pull_policy(template: &PluginTemplate, image: &Reference) -> ImagePullPolicy {
    template.image_pull_policy.unwrap_or(match (image.digest(), image.tag()) {
        (None, None | Some("latest")) => ImagePullPolicy::Always,
        _ => ImagePullPolicy::IfNotPresent,
    })
}

fn reason(error: &RegistryError) -> Reason {
    match error {
        RegistryError::Unauthorized { .. } | RegistryError::Credentials(_) => Reason::RegistryUnauthorized,
        RegistryError::Unavailable { .. } | RegistryError::Setup(_) => Reason::RegistryUnavailable,
        RegistryError::DigestMismatch { .. } => Reason::DigestMismatch,
        RegistryError::Unsupported { .. } => Reason::ArtifactUnsupported,
        RegistryError::NotFound { .. } | RegistryError::InvalidReference { .. } => Reason::ImageNotFound,
    }
}

#[cfg(test)]
mod tests {
    use samovar_crds::{LocalObject, Missing, ObjectKind};
    use serde_json::{Value, json};

    use super::*;
    use crate::validate::validate;

    fn plugin(spec: &Value) -> WasmPlugin {
        serde_json::from_value(json!({
            "apiVersion": samovar_crds::API_VERSION, "kind": "WasmPlugin", "metadata": { "name": "text" }, "spec": spec
        }))
        .unwrap()
    }

    fn revision(plugin: &WasmPlugin, contents: &str) -> Revision {
        let template = plugin.spec.template.clone();
        let image = format!("{}@sha256:1", template.image);
        Revision::next("text", RevisionData { template, image, contents: Some(contents.to_owned()) }, None)
    }

    /// A decision in short: the settled outcome and its revision's number, or the kind of lookup.
    fn summary(decision: Decision) -> String {
        match decision {
            Decision::Settled(Resolution { revision, outcome, requeue_after }) => {
                let outcome = match outcome {
                    Outcome::Failed(reason, _) => reason.to_string(),
                    outcome => format!("{outcome:?}"),
                };
                let requeued = if requeue_after.is_some() { ", requeued" } else { "" };
                format!("{outcome} {}{requeued}", revision.map_or(0, |revision| revision.number))
            }
            Decision::Lookup(lookup) => {
                let when = if lookup.is_periodic { "periodic" } else { "once" };
                format!("lookup {when}{}", if lookup.is_current { ", current" } else { "" })
            }
        }
    }

    #[test]
    fn a_lookup_is_due_only_if_spec_contents_and_revision_leave_it_open() {
        let (pinned, latest) = (json!({ "image": "text:1" }), json!({ "image": "text" }));
        let paused = |spec: &Value| json!({ "image": spec["image"], "paused": true });
        let known = |version: &str| ContentsVersion::Known(version.to_owned());
        let unavailable = |why| ContentsVersion::Unavailable(why);
        let missing = || {
            let object = LocalObject { kind: ObjectKind::Secret, name: "api".to_owned() };
            Unavailable::Missing(Missing::Object(object))
        };
        // The spec, the version of its contents, the spec of the newest revision with contents `a`, and the decision.
        let table = [
            (pinned.clone(), known("a"), None, "lookup once"),
            (pinned.clone(), known("a"), Some(&pinned), "Current 1"),
            (pinned.clone(), known("b"), Some(&pinned), "Current 2"),
            (pinned.clone(), ContentsVersion::None, Some(&pinned), "Current 2"),
            (pinned.clone(), known("a"), Some(&latest), "lookup once"),
            (latest.clone(), known("a"), None, "lookup periodic"),
            (latest.clone(), known("a"), Some(&latest), "lookup periodic, current"),
            (latest.clone(), known("b"), Some(&latest), "lookup periodic, current"),
            (paused(&pinned), known("a"), None, "Paused 0"),
            (paused(&pinned), known("a"), Some(&pinned), "Current 1"),
            (paused(&pinned), known("b"), Some(&pinned), "Paused 1"),
            (paused(&pinned), known("a"), Some(&latest), "Paused 1"),
            (paused(&latest), known("a"), Some(&latest), "Current 1"),
            (pinned.clone(), unavailable(missing()), Some(&pinned), "SecretUnavailable 1"),
            (pinned.clone(), unavailable(Unavailable::NoKey), Some(&pinned), "SecretUnavailable 1, requeued"),
            (pinned.clone(), unavailable(Unavailable::Forbidden), None, "SecretUnavailable 0, requeued"),
            (json!({ "image": "Not An Image" }), known("a"), Some(&pinned), "InvalidSpec 1"),
        ];
        for (spec, contents, newest, expected) in table {
            let row = format!("{spec}, {contents:?}, {newest:?}");
            let plugin = plugin(&spec);
            let newest = newest.map(|spec| revision(&self::plugin(spec), "a"));
            assert_eq!(summary(decide(&plugin, validate(&plugin), contents, newest)), expected, "{row}");
        }
    }

    #[test]
    fn changed_contents_make_a_revision_of_the_same_image_unless_unknown_or_paused() {
        let mut plugin = plugin(&json!({ "image": "text:1" }));
        let first = revision(&plugin, "a");
        let decided = |plugin: &WasmPlugin, contents| {
            let decision = decide(plugin, validate(plugin), contents, Some(first.clone()));
            let Decision::Settled(resolution) = decision else { panic!("a registry would be asked") };
            resolution.revision.unwrap()
        };
        let changed = || ContentsVersion::Known("b".to_owned());
        let second = decided(&plugin, changed());
        assert_eq!((&second.data.image, second.data.contents.as_deref()), (&first.data.image, Some("b")));
        assert_ne!(second.name, first.name);
        assert_eq!(decided(&plugin, ContentsVersion::Unavailable(Unavailable::NoKey)), first);
        plugin.spec.paused = true;
        assert_eq!(decided(&plugin, changed()), first);
    }

    #[test]
    fn delays_double_respect_retry_after_and_are_bounded() {
        let unavailable = |seconds: Option<u64>| RegistryError::Unavailable {
            registry: "r".to_owned(),
            why: "503".to_owned(),
            retry_after: seconds.map(Duration::from_secs),
        };
        let mut backoff = BACKOFF.build();
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 150, 150] {
            let wait = delay(&unavailable(None), &mut backoff).as_secs();
            assert!((seconds..=2 * seconds).contains(&wait), "{wait} s after {seconds} s");
        }
        let wait = delay(&unavailable(Some(60)), &mut BACKOFF.build());
        assert!((60..=120).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(delay(&unavailable(Some(3600)), &mut BACKOFF.build()), RECHECK_INTERVAL);
    }

    #[test]
    fn the_pull_policy_has_the_kubelets_defaults() {
        let digest = format!("r/text@sha256:{}", "0".repeat(64));
        for (image, policy) in [
            ("text", ImagePullPolicy::Always),
            ("text:latest", ImagePullPolicy::Always),
            ("text:1", ImagePullPolicy::IfNotPresent),
            (&digest, ImagePullPolicy::IfNotPresent),
        ] {
            let reference = image.parse().unwrap();
            let template = plugin(&json!({ "image": image })).spec.template;
            assert_eq!(pull_policy(&template, &reference), policy, "{image}");
        }
    }
}
