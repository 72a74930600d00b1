//! Resolving: which revision the spec means, asking the registry only where it must.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::runtime::RawExtension};
use kube::ResourceExt as _;
use samovar_crds::{ImagePullPolicy, PluginTemplate, Reason, WasmPlugin, names};
use samovar_registry::{Client, Error as RegistryError, Reference};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::{
    contents::Unavailable,
    validate::{Invalid, Valid},
};

/// One immutable version of what runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revision {
    pub(crate) name: String,
    pub(crate) number: i64,
    pub(crate) data: RevisionData,
}

/// What a `ControllerRevision` keeps.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct RevisionData {
    /// The template as its author wrote it, with the tag.
    pub(crate) template: PluginTemplate,
    /// The image that the tag was resolved to.
    pub(crate) image: String,
    /// The version of what the template's ConfigMaps and Secrets hold, where it names some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) contents: Option<String>,
}

/// Which revision is to run, and whether it is the one that the spec means.
#[derive(Debug)]
pub(crate) struct Resolution {
    /// The newest revision: the spec's own, or where that cannot be had or is held back, the one before.
    pub(crate) revision: Option<Revision>,
    pub(crate) outcome: Outcome,
    /// When to look again without a change.
    pub(crate) requeue_after: Option<Duration>,
}

/// Whether the newest revision is what the spec means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is.
    Current,
    /// The plugin is paused: the spec's is held back.
    Paused,
    /// The spec's cannot be had.
    Failed(Reason, String),
}

/// Asks registries for digests, and remembers whom not to ask again yet.
pub(crate) struct Resolver {
    registry: Client,
    /// Questions to registries at once.
    slots: Semaphore,
    memory: Mutex<HashMap<String, LastLookup>>,
}

/// The last question about one plugin.
struct LastLookup {
    template: PluginTemplate,
    not_before: Instant,
    tries: u32,
    failure: Option<(Reason, String)>,
}

/// How long until what nothing tells of is looked at again.
const UNNOTICED: Duration = Duration::from_secs(5);
/// How long until an `Always` tag, or a failure that only somebody else can mend, is looked at again.
const SLOW: Duration = Duration::from_mins(5);
/// The first wait after a registry did not answer; it doubles with each try, up to `SLOW`.
const FIRST: Duration = Duration::from_secs(1);
/// Plugins that are remembered; past it what is due anyway is forgotten.
const CACHE_ENTRIES: usize = 10_000;

impl Resolver {
    pub(crate) fn new(registry: Client) -> Self {
        Self { registry, slots: Semaphore::new(8), memory: Mutex::default() }
    }

    /// Which revision is to run. `valid` is the verdict on the spec, and `contents` the version of what it names; what is
    /// wrong with either keeps what runs.
    pub(crate) async fn resolve(
        &self,
        plugin: &WasmPlugin,
        valid: Result<Valid, Invalid>,
        contents: Result<Option<String>, Unavailable>,
        revisions: &[Arc<ControllerRevision>],
    ) -> Resolution {
        let known: Vec<Revision> = revisions.iter().filter_map(|revision| Revision::read(revision)).collect();
        let newest = known.iter().max_by_key(|revision| revision.number).cloned();
        let template = &plugin.spec.template;
        let image = match valid {
            Ok(Valid { image }) => image,
            Err(invalid) => {
                return Resolution::failed(newest, Reason::InvalidSpec, invalid.to_string(), None);
            }
        };
        let contents = match contents {
            Ok(contents) => contents,
            Err(unavailable) => {
                // An object that comes is noticed; the operator's own key and rights are not.
                let requeue_after = (!matches!(unavailable, Unavailable::Missing(_))).then_some(UNNOTICED);
                return Resolution::failed(
                    newest,
                    Reason::SecretUnavailable,
                    unavailable.to_string(),
                    requeue_after,
                );
            }
        };
        let newest = newest.map(|newest| {
            let moved = newest.data.template == *template && newest.data.contents != contents;
            if !moved || plugin.spec.paused {
                return newest;
            }
            // The image is what it was, whatever its registry says now.
            let data = RevisionData { contents: contents.clone(), ..newest.data.clone() };
            Revision::next(&plugin.name_any(), data, Some(newest))
        });
        let is_current = newest
            .as_ref()
            .is_some_and(|newest| newest.data.template == *template && newest.data.contents == contents);
        let looks_again = pull_policy(template, &image) == ImagePullPolicy::Always;
        if is_current && (!looks_again || plugin.spec.paused) {
            return Resolution { revision: newest, outcome: Outcome::Current, requeue_after: None };
        }
        if plugin.spec.paused {
            return Resolution { revision: newest, outcome: Outcome::Paused, requeue_after: None };
        }
        let uid = plugin.uid().unwrap_or_default();
        if let Some((failure, wait)) = self.remembered(&uid, template, is_current) {
            return match failure {
                Some((reason, message)) if !is_current => {
                    Resolution::failed(newest, reason, message, Some(wait))
                }
                _ => Resolution { revision: newest, outcome: Outcome::Current, requeue_after: Some(wait) },
            };
        }
        let pinned = match self.ask(template, &image).await {
            Ok(pinned) => pinned,
            Err(error) => {
                let (reason, message) = (reason(&error), error.to_string());
                let wait = self.remember_failure(&uid, template, &error);
                // A tag that cannot be looked at again is still what it was.
                return if is_current {
                    tracing::warn!(plugin = %plugin.name_any(), "{message}");
                    Resolution { revision: newest, outcome: Outcome::Current, requeue_after: Some(wait) }
                } else {
                    Resolution::failed(newest, reason, message, Some(wait))
                };
            }
        };
        let requeue_after = looks_again.then(|| {
            self.remember(uid, template, SLOW, 0, None);
            SLOW
        });
        let data = RevisionData { template: template.clone(), image: pinned.to_string(), contents };
        let revision = Revision::next(&plugin.name_any(), data, newest);
        Resolution { revision: Some(revision), outcome: Outcome::Current, requeue_after }
    }

    async fn ask(&self, template: &PluginTemplate, image: &Reference) -> Result<Reference, RegistryError> {
        if template.image_pull_policy == Some(ImagePullPolicy::Never) {
            return Ok(image.clone());
        }
        let _slot = self.slots.acquire().await;
        self.registry.resolve(image).await
    }

    /// What was last learnt and how long to wait, where it is too early to ask again. A question about another
    /// template is never too early.
    fn remembered(
        &self,
        uid: &str,
        template: &PluginTemplate,
        is_current: bool,
    ) -> Option<(Option<(Reason, String)>, Duration)> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let last = memory.get(uid).filter(|last| last.template == *template);
        let Some(last) = last else {
            // A revision that this process did not make itself was resolved a moment ago, or long ago: from now
            // on it is looked at in its time.
            if is_current {
                let not_before = Instant::now() + SLOW;
                let last = LastLookup { template: template.clone(), not_before, tries: 0, failure: None };
                memory.insert(uid.to_owned(), last);
                return Some((None, SLOW));
            }
            return None;
        };
        let wait = last.not_before.checked_duration_since(Instant::now())?;
        Some((last.failure.clone(), wait))
    }

    fn remember_failure(&self, uid: &str, template: &PluginTemplate, error: &RegistryError) -> Duration {
        let tries = {
            let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.get(uid).filter(|last| last.template == *template).map_or(0, |last| last.tries)
        };
        let wait = match error {
            RegistryError::Unavailable { retry_after, .. } => {
                let doubled = FIRST.saturating_mul(1 << tries.min(10));
                retry_after.unwrap_or_default().max(doubled).min(SLOW).mul_f64(rand::random_range(0.8..1.2))
            }
            _ => SLOW,
        };
        self.remember(uid.to_owned(), template, wait, tries + 1, Some((reason(error), error.to_string())));
        wait
    }

    fn remember(
        &self,
        uid: String,
        template: &PluginTemplate,
        wait: Duration,
        tries: u32,
        failure: Option<(Reason, String)>,
    ) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() >= CACHE_ENTRIES {
            let now = Instant::now();
            memory.retain(|_, last| last.not_before > now);
        }
        let not_before = Instant::now() + wait;
        memory.insert(uid, LastLookup { template: template.clone(), not_before, tries, failure });
    }
}

impl Resolution {
    fn failed(
        revision: Option<Revision>,
        reason: Reason,
        message: String,
        requeue_after: Option<Duration>,
    ) -> Self {
        Self { revision, outcome: Outcome::Failed(reason, message), requeue_after }
    }
}

impl Revision {
    /// What a `ControllerRevision` says; `None` for one that is not of this form.
    pub(crate) fn read(revision: &ControllerRevision) -> Option<Self> {
        let data = serde_json::from_value(revision.data.as_ref()?.0.clone()).ok()?;
        Some(Self { name: revision.name_any(), number: revision.revision, data })
    }

    /// The revision of `data`: after the newest, unless it is the newest. The same data always has the same name,
    /// so that going back finds the old revision and gives it the next number.
    fn next(plugin: &str, data: RevisionData, newest: Option<Self>) -> Self {
        let identity = serde_json::to_vec(&data).unwrap_or_default();
        let hash = &names::hex(&Sha256::digest(identity))[..10];
        let name = format!("{plugin}-{hash}");
        match newest {
            Some(newest) if newest.name == name => newest,
            newest => Self { name, number: newest.map_or(1, |newest| newest.number + 1), data },
        }
    }

    /// The template with its image pinned: what agents run.
    pub(crate) fn pinned(&self) -> PluginTemplate {
        PluginTemplate { image: self.data.image.clone(), ..self.data.template.clone() }
    }

    /// What its `ControllerRevision` keeps.
    pub(crate) fn raw(&self) -> RawExtension {
        RawExtension(serde_json::to_value(&self.data).unwrap_or_default())
    }
}

/// The policy, with the kubelet's defaults.
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
    use super::*;

    fn data(image: &str) -> RevisionData {
        let template = serde_json::from_value(serde_json::json!({ "image": image })).unwrap();
        RevisionData { template, image: format!("{image}@sha256:1"), contents: None }
    }

    #[test]
    fn a_revision_is_named_by_what_it_runs_and_going_back_gives_it_the_next_number() {
        let first = Revision::next("text", data("a"), None);
        let second = Revision::next("text", data("b"), Some(first.clone()));
        assert_eq!((first.number, second.number), (1, 2));
        assert_ne!(first.name, second.name);
        let back = Revision::next("text", data("a"), Some(second));
        assert_eq!((back.name.as_str(), back.number), (first.name.as_str(), 3));
        assert_eq!(Revision::next("text", data("a"), Some(back.clone())), back);
    }

    #[tokio::test]
    async fn contents_that_moved_are_a_new_revision_of_the_same_image_and_what_is_unknown_keeps_the_old() {
        // Nothing answers there: what asks a registry fails.
        let mut plugin: WasmPlugin = serde_json::from_value(serde_json::json!({
            "apiVersion": samovar_crds::API_VERSION, "kind": "WasmPlugin", "metadata": { "name": "text" },
            "spec": { "image": "127.0.0.1:1/text:1" },
        }))
        .unwrap();
        let contents = |version: &str| Some(version.to_owned());
        let first = Revision::next(
            "text",
            RevisionData { contents: contents("a"), ..data("127.0.0.1:1/text:1") },
            None,
        );
        let there = [Arc::new(ControllerRevision {
            data: Some(first.raw()),
            revision: 1,
            metadata: kube::api::ObjectMeta { name: Some(first.name.clone()), ..Default::default() },
        })];
        let _ = rustls::crypto::ring::default_provider().install_default();
        let resolver = Resolver::new(Client::new(samovar_registry::ClientOptions::default()).unwrap());
        let resolve = async |plugin: &WasmPlugin, contents| {
            let Resolution { revision, outcome, .. } =
                resolver.resolve(plugin, crate::validate::validate(plugin), contents, &there).await;
            (revision.unwrap(), outcome)
        };
        assert_eq!(resolve(&plugin, Ok(contents("a"))).await, (first.clone(), Outcome::Current));
        let (moved, outcome) = resolve(&plugin, Ok(contents("b"))).await;
        assert_eq!((outcome, moved.number, &moved.data.image), (Outcome::Current, 2, &first.data.image));
        let (kept, outcome) = resolve(&plugin, Err(Unavailable::NoKey)).await;
        assert!(matches!(outcome, Outcome::Failed(Reason::SecretUnavailable, _)) && kept == first);
        plugin.spec.paused = true;
        assert_eq!(resolve(&plugin, Ok(contents("b"))).await, (first, Outcome::Paused));
    }

    #[test]
    fn the_pull_policy_defaults_as_the_kubelets() {
        let digest = format!("r/text@sha256:{}", "0".repeat(64));
        for (image, policy) in [
            ("text", ImagePullPolicy::Always),
            ("text:latest", ImagePullPolicy::Always),
            ("text:1", ImagePullPolicy::IfNotPresent),
            (&digest, ImagePullPolicy::IfNotPresent),
        ] {
            let reference = image.parse().unwrap();
            assert_eq!(pull_policy(&data(image).template, &reference), policy, "{image}");
        }
    }
}
