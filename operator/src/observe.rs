//! Observes the cluster through caches that watches fill.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt as _};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::ControllerRevision,
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store, store::Writer},
        watcher,
    },
};
use samovar_crds::{PluginAssignment, WasmPlugin, names};
use serde::de::DeserializeOwned;

/// A namespaced kind of object, with the bounds that clients and watches require.
pub(crate) trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The objects of one plugin, and the nodes and agents of the cluster.
pub(crate) struct Observed {
    pub(crate) revisions: Vec<Arc<ControllerRevision>>,
    pub(crate) assignments: Vec<PluginAssignment>,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) agents: Vec<Arc<Pod>>,
}

/// The caches of the watched objects. Reading them sends no request.
pub(crate) struct Caches {
    pub(crate) revisions: Store<ControllerRevision>,
    pub(crate) assignments: Store<DeserializeGuard<PluginAssignment>>,
    pub(crate) services: Store<Service>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) nodes: Store<Node>,
    pub(crate) agents: Store<Pod>,
}

impl Caches {
    /// Waits until all caches have synced, since one that has not may lack existing objects. Await it in one place
    /// only: of several tasks that wait for a store only the last is woken.
    pub(crate) async fn wait_until_synced(&self) -> bool {
        let (revisions, assignments, services) = tokio::join!(
            self.revisions.wait_until_ready(),
            self.assignments.wait_until_ready(),
            self.services.wait_until_ready()
        );
        let (slices, nodes, agents) = tokio::join!(
            self.slices.wait_until_ready(),
            self.nodes.wait_until_ready(),
            self.agents.wait_until_ready()
        );
        revisions.is_ok()
            && assignments.is_ok()
            && services.is_ok()
            && slices.is_ok()
            && nodes.is_ok()
            && agents.is_ok()
    }

    pub(crate) fn observe(&self, plugin: &WasmPlugin) -> Observed {
        let assignments = owned_by(&self.assignments, plugin);
        Observed {
            revisions: owned_by(&self.revisions, plugin),
            // Skips unreadable assignments; applying one of the same name replaces it.
            assignments: assignments.iter().filter_map(|guard| guard.0.as_ref().ok().cloned()).collect(),
            service: owned_by(&self.services, plugin)
                .into_iter()
                .find(|service| service.name_any() == plugin.name_any()),
            slices: owned_by(&self.slices, plugin),
            nodes: self.nodes.state(),
            agents: self.agents.state(),
        }
    }
}

/// The objects that the plugin controls, sorted by name.
fn owned_by<K>(store: &Store<K>, plugin: &WasmPlugin) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let uid = plugin.uid();
    let is_own = |object: &K| {
        let owners = object.owner_references();
        object.namespace() == plugin.namespace()
            && owners.iter().any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid.as_ref())
    };
    let mut objects: Vec<_> = store.state().into_iter().filter(|object| is_own(object)).collect();
    objects.sort_by_key(|object| object.name_any());
    objects
}

/// An API of one kind in a namespace, or in all.
pub(crate) fn scoped<K: Object>(client: Client, namespace: Option<&str>) -> Api<K> {
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

/// A cache of the operator's own objects in a namespace, or in all, and the stream that fills it and yields each
/// change.
pub(crate) fn owned<K: Object>(
    client: Client,
    namespace: Option<&str>,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static) {
    let labels = format!("app.kubernetes.io/managed-by={}", names::OPERATOR);
    cached(scoped(client, namespace), watcher::Config::default().labels(&labels))
}

/// Watches only the metadata of `K`, without a cache. Calls `relists` when the watch relists, since events may have
/// been lost.
pub(crate) fn watch_metadata<K: Object>(
    client: Client,
    namespace: Option<&str>,
    relists: impl Fn() + Send + 'static,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static {
    watcher(scoped::<PartialObjectMeta<K>>(client, namespace), watcher::Config::default().timeout(60))
        .default_backoff()
        .inspect(move |event| {
            if matches!(event, Ok(watcher::Event::Init)) {
                relists();
            }
        })
        .touched_objects()
}

/// A cache and the stream that fills it.
pub(crate) fn cached<K>(
    api: Api<K>,
    config: watcher::Config,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let writer: Writer<K> = Writer::default();
    let store = writer.as_reader();
    // The server ends each watch after 60 s, so one that lasts longer reveals a connection that died silently.
    let stream = watcher(api, config.timeout(60))
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects();
    (store, stream)
}

/// Yields when the `facts` of an object change: the part that placement depends on. Heartbeats change other parts.
pub(crate) fn changes<K, F>(
    store: Store<K>,
    stream: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
    facts: impl Fn(&K) -> F + Send + 'static,
) -> impl Stream<Item = ()> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: PartialEq + Send + 'static,
{
    let mut known: BTreeMap<String, F> = BTreeMap::new();
    stream.filter_map(move |event| {
        let changed = event.is_ok_and(|object| {
            let name = object.name_any();
            match store.get(&reflector::ObjectRef::from_obj(&object)) {
                Some(object) => {
                    let facts = facts(&object);
                    let changed = known.get(&name) != Some(&facts);
                    known.insert(name, facts);
                    changed
                }
                None => known.remove(&name).is_some(),
            }
        });
        std::future::ready(changed.then_some(()))
    })
}
