//! The route table: the serving revision of each plugin. Immutable; a change is another table.

use std::{collections::HashMap, sync::Arc};

use samovar_runtime::{Abi, Function, Plugin};

use crate::{
    desired::{DesiredRevision, Key},
    server::metrics::{FunctionMetrics, Metrics},
};

/// A loaded revision, ready to be called.
pub(crate) struct Serving {
    pub(crate) key: Key,
    pub(crate) revision: Arc<DesiredRevision>,
    pub(crate) runs: Plugin,
    endpoints: HashMap<String, Arc<Endpoint>>,
    handler: Option<Arc<Endpoint>>,
}

/// One function, with its metrics.
pub(crate) struct Endpoint {
    pub(crate) function: Arc<Function>,
    pub(crate) metrics: FunctionMetrics,
}

impl Serving {
    pub(crate) fn new(key: &Key, revision: &Arc<DesiredRevision>, runs: Plugin, metrics: &Metrics) -> Self {
        let endpoint = |function: &Arc<Function>| {
            let metrics = metrics.function(&key.namespace, &key.plugin, function.name());
            let endpoint = Endpoint { function: Arc::clone(function), metrics };
            (function.name().to_owned(), Arc::new(endpoint))
        };
        let endpoints: HashMap<_, _> = runs.functions().iter().map(endpoint).collect();
        let handler = endpoints.values().find(|endpoint| endpoint.function.abi() == Some(Abi::Http)).cloned();
        Self { key: key.clone(), revision: Arc::clone(revision), runs, endpoints, handler }
    }

    /// The endpoint of whole requests, if the plugin is of `type: Http`.
    pub(crate) fn handler(&self) -> Option<&Arc<Endpoint>> {
        self.handler.as_ref()
    }

    pub(crate) fn endpoint(&self, function: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(function)
    }
}

/// The route of a plugin.
#[derive(Clone)]
pub(crate) enum Route {
    /// A revision serves.
    Serving(Arc<Serving>),
    /// No revision serves yet; the text is the reason.
    NotReady(Arc<str>),
}

/// The routes of all plugins that this agent is to run.
#[derive(Clone, Default)]
pub(crate) struct RouteTable {
    namespaces: HashMap<String, HashMap<String, Route>>,
}

impl RouteTable {
    /// The table of the highest-numbered loaded revision of each plugin, and of plugins that have none yet.
    pub(crate) fn new<'a>(
        loaded: impl Iterator<Item = &'a Arc<Serving>>,
        not_ready: impl Iterator<Item = (&'a str, &'a str, String)>,
    ) -> Self {
        let mut table = Self::default();
        for serving in loaded {
            let plugins = table.namespaces.entry(serving.key.namespace.clone()).or_default();
            match plugins.get(&serving.key.plugin) {
                Some(Route::Serving(other)) if other.revision.number >= serving.revision.number => {}
                _ => {
                    plugins.insert(serving.key.plugin.clone(), Route::Serving(Arc::clone(serving)));
                }
            }
        }
        for (namespace, plugin, why) in not_ready {
            let plugins = table.namespaces.entry(namespace.to_owned()).or_default();
            plugins.entry(plugin.to_owned()).or_insert_with(|| Route::NotReady(why.into()));
        }
        table
    }

    /// The route of a plugin; `None` if this agent is not to run it.
    pub(crate) fn get(&self, namespace: &str, plugin: &str) -> Option<&Route> {
        self.namespaces.get(namespace)?.get(plugin)
    }

    /// All serving revisions.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &Arc<Serving>> {
        self.namespaces.values().flat_map(HashMap::values).filter_map(|route| match route {
            Route::Serving(serving) => Some(serving),
            Route::NotReady(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use samovar_runtime::{
        ArtifactCache, Compiler, Engine, EngineOptions, Instances, Limits, ModuleDigest, PluginSpec,
    };

    use super::*;
    use crate::desired::fixtures::{key, revision};

    async fn plugin() -> Plugin {
        let engine = Engine::new(&EngineOptions { instances: 4, ..EngineOptions::default() }).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache =
            ArtifactCache::open(folder.path().to_owned(), engine.clone(), Compiler::InProcess).unwrap();
        let wasm = wat::parse_str(r#"(module (func (export "run")))"#).unwrap();
        let artifact = cache.compile(&ModuleDigest::of(&wasm), wasm.into()).await.unwrap();
        let spec = PluginSpec {
            name: "demo/text".into(),
            functions: Vec::new(),
            limits: Limits::default(),
            instances: Instances { warm: 0, reuse: None },
            ..PluginSpec::default()
        };
        Plugin::load(&engine, &artifact, spec).await.unwrap()
    }

    fn serving(plugin: &str, number: i64, runs: &Plugin) -> Arc<Serving> {
        let name = format!("{plugin}-{number}");
        let desired = Arc::new(revision(&name, number));
        let metrics = Metrics::new(&mut Registry::default());
        Arc::new(Serving::new(&key(plugin, &name), &desired, runs.clone(), &metrics))
    }

    fn answers(table: &RouteTable, plugin: &str) -> Option<String> {
        Some(match table.get("demo", plugin)? {
            Route::Serving(serving) => serving.revision.revision.clone(),
            Route::NotReady(why) => format!("not ready: {why}"),
        })
    }

    #[tokio::test]
    async fn the_highest_loaded_revision_serves_while_newer_ones_load() {
        let runs = plugin().await;
        let loaded = [("text", 2), ("text", 10), ("text", 9), ("one", 1)]
            .map(|(plugin, number)| serving(plugin, number, &runs));
        let not_ready = [("demo", "text", "pulling 11"), ("demo", "new", "pulling 1")]
            .map(|(namespace, plugin, why)| (namespace, plugin, why.to_owned()));
        let table = RouteTable::new(loaded.iter(), not_ready.into_iter());
        assert_eq!(answers(&table, "text").as_deref(), Some("text-10"));
        assert_eq!(answers(&table, "one").as_deref(), Some("one-1"));
        assert_eq!(answers(&table, "new").as_deref(), Some("not ready: pulling 1"));
        assert_eq!(answers(&table, "gone"), None);
        assert_eq!(table.serving().count(), 2);
        // A rollback: the newest is stopped, and the one before it serves again.
        let table = RouteTable::new([&loaded[0], &loaded[2]].into_iter(), std::iter::empty());
        assert_eq!(answers(&table, "text").as_deref(), Some("text-9"));
    }
}
