//! This agent's assignments: watched, checkpointed on disk, and turned into the desired state.

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
use samovar_runtime::atomic_file;
use tokio::sync::watch;

use crate::desired::{Desired, DesiredRevision, Key, Source};

/// The last known assignments on disk, for a start while the API server is unreachable.
pub(crate) struct Checkpoint {
    file: PathBuf,
}

impl Checkpoint {
    /// The checkpoint of the Pod with this UID: each Pod that shares the directory has its own.
    pub(crate) fn new(state: &Path, pod_uid: &str) -> Self {
        let file = state.join(format!("assignments-{pod_uid}.json"));
        // A directory that outlives its Pods would collect the checkpoints of those that are long gone.
        for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
            let is_anothers = entry.path() != file
                && entry.file_name().to_str().is_some_and(|name| name.starts_with("assignments-"));
            if is_anothers && atomic_file::is_stale(&entry) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Self { file }
    }

    /// The desired state of the last save. An unreadable file counts as none.
    pub(crate) fn load(&self) -> Option<Desired> {
        let bytes = std::fs::read(&self.file).ok()?;
        let entries: Result<Vec<(Key, Arc<DesiredRevision>)>, _> = serde_json::from_slice(&bytes);
        entries
            .inspect_err(|error| tracing::warn!(%error, "the checkpoint of assignments is unreadable; they have to come from the API server"))
            .ok()
            .map(|entries| entries.into_iter().collect())
    }

    fn save(&self, desired: &Desired) {
        let entries: Vec<_> = desired.iter().collect();
        let written = serde_json::to_vec(&entries)
            .map_err(Into::into)
            .and_then(|json| atomic_file::write(&self.file, 0o600, &[&json]));
        if let Err(error) = written {
            tracing::warn!(%error, "the assignments could not be checkpointed; a restart without the API server would not know them");
        }
    }
}

/// The state of one watch: of a namespace, or of all of them.
#[derive(Default)]
struct Scope {
    /// `None` until the first list is complete.
    current: Option<Seen>,
    /// The objects of a list that is not complete yet.
    relisted: Option<Seen>,
}

/// The assignments to this node.
#[derive(Default)]
struct Seen {
    /// This agent's own.
    own: Desired,
    /// The UIDs of the own ones.
    uids: Uids,
    /// The plugins of other agents' assignments, by namespace and name. There are some while a DaemonSet replaces its
    /// Pods.
    others: BTreeMap<(String, String), String>,
}

impl Seen {
    fn forget(&mut self, namespace: &str, name: &str) {
        let is_other = |key: &Key| key.namespace != namespace || key.revision != name;
        self.own.retain(|key, _| is_other(key));
        self.uids.retain(|key, _| is_other(key));
        self.others.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// True if this agent has every plugin that another one on this node has.
    fn is_whole(&self) -> bool {
        let has = |namespace: &str, plugin: &str| {
            self.own.keys().any(|key| key.namespace == namespace && key.plugin == plugin)
        };
        self.others.iter().all(|((namespace, _), plugin)| has(namespace, plugin))
    }
}

/// True if the API server answered, and refused.
fn is_refusal(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}

/// The UIDs of assignments: one that was created again under its name has another.
pub(crate) type Uids = BTreeMap<Key, String>;

/// The progress of the first sync, which decides when an agent is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SyncState {
    /// No assignments are known.
    None,
    /// Its own assignments up to now are known.
    Own,
    /// All that it can expect are known: each plugin of another agent on this node is assigned to this one too.
    Whole,
}

/// The channels on which [`follow`] publishes this agent's assignments.
pub(crate) struct Outputs {
    /// The desired state.
    pub(crate) desired: watch::Sender<Desired>,
    /// The UIDs of the assignments.
    pub(crate) uids: watch::Sender<Uids>,
    /// The progress of the first sync.
    pub(crate) sync_state: watch::Sender<SyncState>,
}

/// Watches this agent's assignments in these namespaces, or in all if there are none, and publishes them. Never ends.
/// While the API server is unreachable nothing changes.
pub(crate) async fn follow(
    client: Client,
    namespaces: &[String],
    node: &str,
    pod_uid: &str,
    checkpoint: Checkpoint,
    outputs: Outputs,
) {
    let Outputs { desired, uids, sync_state } = outputs;
    // A connection that died silently is noticed when its watch does not end after this many seconds.
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
            // A namespace that the agent may not read must not delay the others.
            Err(error) if current.is_none() && is_refusal(&error) => {
                let namespace = namespaces.get(at);
                tracing::error!(?namespace, %error, "the API server refuses access to assignments; does the agent's Role still exist?");
                let of_scope =
                    loaded.iter().filter(|(key, _)| namespace.is_none_or(|name| *name == key.namespace));
                let own = of_scope.map(|(key, revision)| (key.clone(), Arc::clone(revision))).collect();
                *current = Some(Seen { own, ..Seen::default() });
            }
            Err(error) => {
                tracing::warn!(%error, "assignments cannot be watched; the running revisions go on");
                continue;
            }
        }
        // The desired state is complete only when each watch has listed its objects.
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

/// Applies one assignment. One that is unreadable stays as it was `before`.
fn apply(seen: &mut Seen, before: &Desired, object: DeserializeGuard<PluginAssignment>, pod_uid: &str) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let uid = object.uid().unwrap_or_default();
    let assignment = match object.0 {
        Ok(assignment) => assignment,
        Err(error) => {
            tracing::error!(%namespace, %name, %error, "an assignment is unreadable; it stays as it was");
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
    fn only_own_assignments_count_and_only_until_they_are_deleted() {
        let (mut desired, before) = (Seen::default(), Desired::new());
        assert_eq!(applied(&mut desired, &before, assignment("a", "mine")), ["a"]);
        assert_eq!(applied(&mut desired, &before, assignment("b", "of-another-pod")), ["a"]);
        let mut deleted = assignment("a", "mine");
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(applied(&mut desired, &before, deleted).is_empty());
    }

    #[test]
    fn an_agent_is_in_sync_once_it_has_all_plugins_of_its_predecessor() {
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
    fn an_unreadable_assignment_stays_as_it_was_through_a_relist() {
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
    fn a_checkpoint_is_loaded_and_a_damaged_one_counts_as_none() {
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
