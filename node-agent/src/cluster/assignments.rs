//! This agent's assignments: watched, kept on disk, and turned into what is wanted.

use std::{
    collections::BTreeMap,
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
    disk::modules::{was_left, write_whole},
};

/// The last known assignments, for a start while the API server is away.
pub(crate) struct Checkpoint {
    file: PathBuf,
}

impl Checkpoint {
    /// What the Pod with this UID was assigned: another one that shares the folder has its own.
    pub(crate) fn new(state: &Path, pod_uid: &str) -> Self {
        let file = state.join(format!("assignments-{pod_uid}.json"));
        // Where the folder outlives its Pods, those of Pods that are long gone add up.
        for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
            let is_anothers = entry.path() != file
                && entry.file_name().to_str().is_some_and(|name| name.starts_with("assignments-"));
            if is_anothers && was_left(&entry) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Self { file }
    }

    /// What was wanted when this agent last knew. A file that does not read is as good as none.
    pub(crate) fn load(&self) -> Option<Desired> {
        let bytes = std::fs::read(&self.file).ok()?;
        let entries: Result<Vec<(Key, Arc<DesiredRevision>)>, _> = serde_json::from_slice(&bytes);
        entries
            .inspect_err(|error| tracing::warn!(%error, "the last known assignments cannot be read; they are asked for anew"))
            .ok()
            .map(|entries| entries.into_iter().collect())
    }

    fn save(&self, desired: &Desired) {
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
    current: Option<Seen>,
    /// What a list that is not at its end yet has brought.
    relisted: Option<Seen>,
}

/// The assignments of this node.
#[derive(Default)]
struct Seen {
    /// This agent's.
    own: Desired,
    /// The UIDs of these.
    uids: Uids,
    /// Those of other agents, by namespace and name: the plugin. There are some while a DaemonSet replaces its Pods.
    others: BTreeMap<(String, String), String>,
}

impl Seen {
    fn forget(&mut self, namespace: &str, name: &str) {
        let is_other = |key: &Key| key.namespace != namespace || key.revision != name;
        self.own.retain(|key, _| is_other(key));
        self.uids.retain(|key, _| is_other(key));
        self.others.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Whether this agent has every plugin that another here has.
    fn is_whole(&self) -> bool {
        let has = |namespace: &str, plugin: &str| {
            self.own.keys().any(|key| key.namespace == namespace && key.plugin == plugin)
        };
        self.others.iter().all(|((namespace, _), plugin)| has(namespace, plugin))
    }
}

/// Whether the API server answered, and said no.
fn is_refusal(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}

/// The UIDs of assignments: one of the same name that was made anew has another.
pub(crate) type Uids = BTreeMap<Key, String>;

/// How much an agent knows of what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SyncState {
    /// Nothing.
    None,
    /// Its own assignments, so far.
    Own,
    /// All that is to be expected: each plugin that another agent of this node serves is assigned to this one too.
    Whole,
}

/// Where it is said what this agent's assignments are.
pub(crate) struct Outputs {
    /// What they want.
    pub(crate) desired: watch::Sender<Desired>,
    /// Which objects they are.
    pub(crate) uids: watch::Sender<Uids>,
    /// How much of them is known.
    pub(crate) sync_state: watch::Sender<SyncState>,
}

/// Watches this agent's assignments for ever, in these namespaces or in all, and `says` what they are.
/// An API server that is away changes nothing.
pub(crate) async fn follow(
    client: Client,
    namespaces: &[String],
    node: &str,
    pod_uid: &str,
    checkpoint: Checkpoint,
    outputs: Outputs,
) {
    let Outputs { desired, uids, sync_state } = outputs;
    // A connection that died without a word is noticed when a watch ends that should have ended by itself.
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}")).timeout(60);
    let apis: Vec<Api<DeserializeGuard<PluginAssignment>>> = match namespaces {
        [] => vec![Api::all(client)],
        some => some.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
    };
    let mut scopes: Vec<Scope> = apis.iter().map(|_| Scope::default()).collect();
    let loaded = desired.borrow().clone();
    let events = apis.into_iter().enumerate().map(|(at, api)| {
        watcher(api, config.clone()).default_backoff().map(move |event| (at, event)).boxed()
    });
    let mut events = select_all(events);
    while let Some((at, event)) = events.next().await {
        let Scope { current, relisted } = &mut scopes[at];
        match event {
            Ok(watcher::Event::Init) => {
                *relisted = Some(Seen::default());
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                apply(relisted.get_or_insert_default(), &desired.borrow(), object, pod_uid);
                continue;
            }
            Ok(watcher::Event::InitDone) => *current = Some(relisted.take().unwrap_or_default()),
            Ok(watcher::Event::Apply(object)) => {
                apply(current.get_or_insert_default(), &desired.borrow(), object, pod_uid);
            }
            Ok(watcher::Event::Delete(object)) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                current.get_or_insert_default().forget(&namespace, &name);
            }
            // A namespace that may not be read must not keep the others waiting.
            Err(error) if current.is_none() && is_refusal(&error) => {
                let namespace = namespaces.get(at);
                tracing::error!(?namespace, %error, "assignments may not be read; does the agent's Role still exist?");
                let of_scope =
                    loaded.iter().filter(|(key, _)| namespace.is_none_or(|name| *name == key.namespace));
                let own = of_scope.map(|(key, revision)| (key.clone(), Arc::clone(revision))).collect();
                *current = Some(Seen { own, ..Seen::default() });
            }
            Err(error) => {
                tracing::warn!(%error, "the API server does not answer; what runs goes on");
                continue;
            }
        }
        // Only what is known of all of them is the whole.
        let synced: Option<Vec<&Seen>> = scopes.iter().map(|scope| scope.current.as_ref()).collect();
        let Some(parts) = synced else { continue };
        let own = parts.iter().flat_map(|seen| &seen.own);
        let all: Desired = own.map(|(key, revision)| (key.clone(), Arc::clone(revision))).collect();
        uids.send_if_modified(|uids| {
            let all: Uids = parts.iter().flat_map(|seen| seen.uids.clone()).collect();
            let changed = *uids != all;
            *uids = all;
            changed
        });
        let is_whole = parts.iter().all(|seen| seen.is_whole());
        let changed = desired.send_if_modified(|desired| {
            let changed = *desired != all;
            if changed {
                desired.clone_from(&all);
            }
            changed
        });
        if changed {
            checkpoint.save(&all);
        }
        sync_state.send_modify(|state| {
            *state = (*state).max(if is_whole { SyncState::Whole } else { SyncState::Own });
        });
    }
}

/// Takes one assignment in. One that cannot be read stays as it was `before`.
fn apply(seen: &mut Seen, before: &Desired, object: DeserializeGuard<PluginAssignment>, pod_uid: &str) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let uid = object.uid().unwrap_or_default();
    let assignment = match object.0 {
        Ok(assignment) => assignment,
        Err(error) => {
            tracing::error!(%namespace, %name, %error, "an assignment cannot be read; it is left as it was");
            let same = |key: &Key| key.namespace == namespace && key.revision == name;
            let known = before.iter().filter(|(key, _)| same(key));
            seen.uids.extend(known.clone().map(|(key, _)| (key.clone(), uid.clone())));
            seen.own.extend(known.map(|(key, revision)| (key.clone(), Arc::clone(revision))));
            return;
        }
    };
    seen.forget(&namespace, &name);
    if assignment.metadata.deletion_timestamp.is_some() {
        return;
    }
    let spec = assignment.spec;
    if spec.agent.pod_uid != pod_uid {
        seen.others.insert((namespace, name), spec.plugin);
        return;
    }
    let key = Key { namespace, plugin: spec.plugin, revision: name };
    let revision = DesiredRevision {
        revision: spec.revision,
        number: spec.revision_number,
        source: Source::Image(spec.template.image.clone()),
        template: spec.template,
        contents: None,
    };
    seen.uids.insert(key.clone(), uid);
    seen.own.insert(key, Arc::new(revision));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::fixtures::{key, revision};

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

    fn applied(seen: &mut Seen, before: &Desired, object: Value) -> Vec<String> {
        apply(seen, before, serde_json::from_value(object).unwrap(), "mine");
        seen.own.keys().map(|key| key.revision.clone()).collect()
    }

    #[test]
    fn only_this_agents_own_assignments_are_taken_and_only_while_they_are_wanted() {
        let (mut desired, before) = (Seen::default(), Desired::new());
        assert_eq!(applied(&mut desired, &before, assignment("a", "mine")), ["a"]);
        assert_eq!(applied(&mut desired, &before, assignment("b", "of-another-pod")), ["a"]);
        let mut deleted = assignment("a", "mine");
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(applied(&mut desired, &before, deleted).is_empty());
    }

    #[test]
    fn an_agent_knows_the_whole_when_it_has_what_the_one_before_it_serves() {
        let (mut seen, before) = (Seen::default(), Desired::new());
        assert!(seen.is_whole());
        applied(&mut seen, &before, assignment("old", "of-another-pod"));
        assert!(!seen.is_whole());
        applied(&mut seen, &before, assignment("new", "mine"));
        assert!(seen.is_whole());
        seen.forget("demo", "new");
        seen.forget("demo", "old");
        assert!(seen.is_whole());
    }

    #[test]
    fn an_assignment_that_cannot_be_read_stays_as_it_was_even_when_all_are_listed_anew() {
        let mut before = Seen::default();
        applied(&mut before, &Desired::new(), assignment("a", "mine"));
        let before = before.own;
        let mut broken = assignment("a", "mine");
        broken["spec"]["revisionNumber"] = json!("many");
        let mut relisted = Seen::default();
        assert_eq!(applied(&mut relisted, &before, assignment("b", "mine")), ["b"]);
        assert_eq!(applied(&mut relisted, &before, broken), ["a", "b"]);
        assert_eq!(relisted.own.iter().next(), before.iter().next());
    }

    #[test]
    fn what_was_wanted_is_recalled_and_a_damaged_file_is_as_good_as_none() {
        let state = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(state.path(), "mine");
        assert_eq!(checkpoint.load(), None);
        let desired = Desired::from([(key("text", "text-1-a"), Arc::new(revision("text-1", 1)))]);
        checkpoint.save(&desired);
        assert_eq!(checkpoint.load(), Some(desired));
        std::fs::write(state.path().join("assignments-mine.json"), b"[[").unwrap();
        assert_eq!(checkpoint.load(), None);
    }
}
