//! This agent's assignments: watched, kept on disk, and turned into what is wanted.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt as _, stream::select_all};
use kube::{
    Api, Client, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher},
};
use samovar_crds::PluginAssignment;
use tokio::sync::watch;

use crate::{
    desired::{Desired, DesiredRevision, Key, Source},
    modules::write_whole,
};

/// The last known assignments, for a start while the API server is away.
pub(crate) struct Memory {
    file: PathBuf,
}

impl Memory {
    pub(crate) fn new(state: &Path) -> Self {
        Self { file: state.join("assignments.json") }
    }

    /// What was wanted when this agent last knew. A file that does not read is as good as none.
    pub(crate) fn recall(&self) -> Option<Desired> {
        let bytes = std::fs::read(&self.file).ok()?;
        let entries: Result<Vec<(Key, Arc<DesiredRevision>)>, _> = serde_json::from_slice(&bytes);
        entries
            .inspect_err(|error| tracing::warn!(%error, "the last known assignments cannot be read; they are asked for anew"))
            .ok()
            .map(|entries| entries.into_iter().collect())
    }

    fn keep(&self, desired: &Desired) {
        let entries: Vec<_> = desired.iter().collect();
        let written =
            serde_json::to_vec(&entries).map_err(Into::into).and_then(|json| write_whole(&self.file, &json));
        if let Err(error) = written {
            tracing::warn!(%error, "the assignments could not be kept; a restart without the API server would not know them");
        }
    }
}

/// What is known of one namespace, or of all of them.
#[derive(Default)]
struct Scope {
    /// `None` until it was listed once.
    current: Option<Desired>,
    /// What a list that is not at its end yet has brought.
    relisted: Option<Desired>,
}

/// Watches this agent's assignments for ever, in these namespaces or in all, and keeps `desired` at what they say.
/// An API server that is away changes nothing.
pub(crate) async fn follow(
    client: Client,
    namespaces: &[String],
    node: &str,
    pod_uid: &str,
    memory: Memory,
    desired: watch::Sender<Desired>,
    known: watch::Sender<bool>,
) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let apis: Vec<Api<DeserializeGuard<PluginAssignment>>> = match namespaces {
        [] => vec![Api::all(client)],
        some => some.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
    };
    let mut scopes: Vec<Scope> = apis.iter().map(|_| Scope::default()).collect();
    let events = apis.into_iter().enumerate().map(|(at, api)| {
        watcher(api, config.clone()).default_backoff().map(move |event| (at, event)).boxed()
    });
    let mut events = select_all(events);
    while let Some((at, event)) = events.next().await {
        let Scope { current, relisted } = &mut scopes[at];
        match event {
            Ok(watcher::Event::Init) => {
                *relisted = Some(Desired::new());
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                take(relisted.get_or_insert_default(), &desired.borrow(), object, pod_uid);
                continue;
            }
            Ok(watcher::Event::InitDone) => *current = Some(relisted.take().unwrap_or_default()),
            Ok(watcher::Event::Apply(object)) => {
                take(current.get_or_insert_default(), &desired.borrow(), object, pod_uid);
            }
            Ok(watcher::Event::Delete(object)) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                let current = current.get_or_insert_default();
                current.retain(|key, _| key.namespace != namespace || key.revision != name);
            }
            Err(error) => {
                tracing::warn!(%error, "the API server does not answer; what runs goes on");
                continue;
            }
        }
        // Only what is known of all of them is the whole.
        let known_all: Option<Vec<&Desired>> = scopes.iter().map(|scope| scope.current.as_ref()).collect();
        let Some(parts) = known_all else { continue };
        let all: Desired =
            parts.into_iter().flatten().map(|(key, revision)| (key.clone(), Arc::clone(revision))).collect();
        let changed = desired.send_if_modified(|desired| {
            let changed = *desired != all;
            if changed {
                desired.clone_from(&all);
            }
            changed
        });
        if changed {
            memory.keep(&all);
        }
        known.send_replace(true);
    }
}

/// Takes one assignment in. One that cannot be read stays as it was `before`.
fn take(desired: &mut Desired, before: &Desired, object: DeserializeGuard<PluginAssignment>, pod_uid: &str) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let assignment = match object.0 {
        Ok(assignment) => assignment,
        Err(error) => {
            tracing::error!(%namespace, %name, %error, "an assignment cannot be read; it is left as it was");
            let same = |key: &Key| key.namespace == namespace && key.revision == name;
            let known = before.iter().filter(|(key, _)| same(key));
            desired.extend(known.map(|(key, revision)| (key.clone(), Arc::clone(revision))));
            return;
        }
    };
    let deleted = assignment.metadata.deletion_timestamp.is_some();
    if assignment.spec.agent.pod_uid != pod_uid || deleted {
        desired.retain(|key, _| key.namespace != namespace || key.revision != name);
        return;
    }
    let spec = assignment.spec;
    let key = Key { namespace, plugin: spec.plugin, revision: name };
    let revision = DesiredRevision {
        revision: spec.revision,
        number: spec.revision_number,
        source: Source::Image(spec.template.image.clone()),
        template: spec.template,
    };
    desired.insert(key, Arc::new(revision));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn assignment(name: &str, pod_uid: &str) -> Value {
        json!({
            "apiVersion": samovar_crds::API_VERSION, "kind": "PluginAssignment",
            "metadata": { "name": name, "namespace": "demo" },
            "spec": {
                "nodeName": "node", "agent": { "podName": "agent", "podUid": pod_uid },
                "plugin": "text", "revision": "text-1", "revisionNumber": 1, "image": "r/text@sha256:1",
            },
        })
    }

    fn taken(desired: &mut Desired, before: &Desired, object: Value) -> Vec<String> {
        take(desired, before, serde_json::from_value(object).unwrap(), "mine");
        desired.keys().map(|key| key.revision.clone()).collect()
    }

    #[test]
    fn only_this_agents_own_assignments_are_taken_and_only_while_they_are_wanted() {
        let (mut desired, before) = (Desired::new(), Desired::new());
        assert_eq!(taken(&mut desired, &before, assignment("a", "mine")), ["a"]);
        assert_eq!(taken(&mut desired, &before, assignment("b", "of-another-pod")), ["a"]);
        let mut deleted = assignment("a", "mine");
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(taken(&mut desired, &before, deleted).is_empty());
    }

    #[test]
    fn an_assignment_that_cannot_be_read_stays_as_it_was_even_when_all_are_listed_anew() {
        let mut before = Desired::new();
        taken(&mut before, &Desired::new(), assignment("a", "mine"));
        let mut broken = assignment("a", "mine");
        broken["spec"]["revisionNumber"] = json!("many");
        let mut relisted = Desired::new();
        assert_eq!(taken(&mut relisted, &before, assignment("b", "mine")), ["b"]);
        assert_eq!(taken(&mut relisted, &before, broken), ["a", "b"]);
        assert_eq!(relisted.iter().next(), before.iter().next());
    }

    #[test]
    fn what_was_wanted_is_recalled_and_a_damaged_file_is_as_good_as_none() {
        let state = tempfile::tempdir().unwrap();
        let memory = Memory::new(state.path());
        assert_eq!(memory.recall(), None);
        let key = Key { namespace: "demo".into(), plugin: "text".into(), revision: "text-1-a".into() };
        let revision = DesiredRevision {
            revision: "text-1".into(),
            number: 1,
            source: Source::Image("r/text@sha256:1".into()),
            template: serde_json::from_str(r#"{"image": "r/text:1"}"#).unwrap(),
        };
        let desired = Desired::from([(key, Arc::new(revision))]);
        memory.keep(&desired);
        assert_eq!(memory.recall(), Some(desired));
        std::fs::write(state.path().join("assignments.json"), b"[[").unwrap();
        assert_eq!(memory.recall(), None);
    }
}
