//! The route table: which plugin answers what. Immutable; a change is another table.

use std::{collections::HashMap, sync::Arc};

use samovar_runtime::{Function, Plugin};

use crate::metrics::{FunctionMetrics, Metrics};

/// A loaded revision, ready to be called.
pub(crate) struct Serving {
    pub(crate) namespace: String,
    pub(crate) plugin: String,
    pub(crate) revision: String,
    pub(crate) number: i64,
    pub(crate) runs: Plugin,
    endpoints: HashMap<String, Endpoint>,
}

/// One function, with all that a call of it needs.
pub(crate) struct Endpoint {
    pub(crate) function: Arc<Function>,
    pub(crate) metrics: FunctionMetrics,
}

impl Serving {
    pub(crate) fn new(
        namespace: &str,
        plugin: &str,
        revision: &str,
        number: i64,
        runs: Plugin,
        metrics: &Metrics,
    ) -> Self {
        let endpoint = |function: &Arc<Function>| {
            let metrics = metrics.function(namespace, plugin, function.name());
            (function.name().to_owned(), Endpoint { function: Arc::clone(function), metrics })
        };
        let endpoints = runs.functions().iter().map(endpoint).collect();
        let (namespace, plugin, revision) = (namespace.to_owned(), plugin.to_owned(), revision.to_owned());
        Self { namespace, plugin, revision, number, runs, endpoints }
    }

    pub(crate) fn endpoint(&self, function: &str) -> Option<&Endpoint> {
        self.endpoints.get(function)
    }
}

/// What is known of a plugin.
#[derive(Clone)]
pub(crate) enum Route {
    /// A revision answers.
    Serving(Arc<Serving>),
    /// None does yet; the text says why.
    NotReady(Arc<str>),
}

/// Every plugin that this agent was asked to run.
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
            let plugins = table.namespaces.entry(serving.namespace.clone()).or_default();
            match plugins.get(&serving.plugin) {
                Some(Route::Serving(other)) if other.number >= serving.number => {}
                _ => {
                    plugins.insert(serving.plugin.clone(), Route::Serving(Arc::clone(serving)));
                }
            }
        }
        for (namespace, plugin, why) in not_ready {
            let plugins = table.namespaces.entry(namespace.to_owned()).or_default();
            plugins.entry(plugin.to_owned()).or_insert_with(|| Route::NotReady(why.into()));
        }
        table
    }

    /// What is known of a plugin; `None` where this agent was never asked to run it.
    pub(crate) fn get(&self, namespace: &str, plugin: &str) -> Option<&Route> {
        self.namespaces.get(namespace)?.get(plugin)
    }

    /// Every revision that answers.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &Arc<Serving>> {
        self.namespaces.values().flat_map(HashMap::values).filter_map(|route| match route {
            Route::Serving(serving) => Some(serving),
            Route::NotReady(_) => None,
        })
    }
}
