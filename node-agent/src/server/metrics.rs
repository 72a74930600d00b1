//! The metrics of an agent. The hot path holds its counters: a call costs no lookup and no allocation.

use std::{sync::OnceLock, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::server::problem_type::ProblemType;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FunctionLabels {
    namespace: String,
    plugin: String,
    function: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    namespace: String,
    plugin: String,
    function: String,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabels {
    outcome: String,
}

/// Every metric of an agent. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    calls: Family<CallLabels, Counter>,
    duration: Family<FunctionLabels, Histogram, fn() -> Histogram>,
    loads: Family<LoadLabels, Counter>,
    pub(crate) cache_hits: Counter,
    pub(crate) compile_seconds: Histogram,
    pub(crate) cache_bytes: Gauge,
    pub(crate) plugins: Gauge,
    pub(crate) connections: Gauge,
}

/// The counters of one function. That of a problem type is created by its first problem.
pub(crate) struct FunctionMetrics {
    calls: Family<CallLabels, Counter>,
    labels: FunctionLabels,
    ok: Counter,
    problems: [OnceLock<Counter>; ProblemType::ALL.len()],
    duration: Histogram,
}

fn call_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 4.0, 10))
}

/// The part of a registry for an agent's metrics, which all have one prefix.
pub(crate) fn prefixed(registry: &mut Registry) -> &mut Registry {
    registry.sub_registry_with_prefix("samovar_agent")
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            calls: Family::default(),
            duration: Family::new_with_constructor(call_buckets),
            loads: Family::default(),
            cache_hits: Counter::default(),
            compile_seconds: Histogram::new(exponential_buckets(0.01, 4.0, 8)),
            cache_bytes: Gauge::default(),
            plugins: Gauge::default(),
            connections: Gauge::default(),
        };
        let registry = prefixed(registry);
        registry.register("calls", "Calls by outcome: ok, or the problem type", metrics.calls.clone());
        registry.register_with_unit(
            "call_duration",
            "Duration of a call, from its body to its answer",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register("loads", "Loads of revisions by outcome: ok, or the reason", metrics.loads.clone());
        registry.register(
            "artifact_cache_hits",
            "Loads that found their artifact in the cache",
            metrics.cache_hits.clone(),
        );
        registry.register_with_unit(
            "compile",
            "Duration of the compile of a module",
            Unit::Seconds,
            metrics.compile_seconds.clone(),
        );
        registry.register_with_unit(
            "cache",
            "Disk space of modules and artifacts",
            Unit::Bytes,
            metrics.cache_bytes.clone(),
        );
        registry.register("plugins", "Serving plugins", metrics.plugins.clone());
        registry.register("connections", "Open connections of callers", metrics.connections.clone());
        metrics
    }

    pub(crate) fn loaded(&self, outcome: &str) {
        self.loads.get_or_create(&LoadLabels { outcome: outcome.to_owned() }).inc();
    }

    pub(crate) fn function(&self, namespace: &str, plugin: &str, function: &str) -> FunctionMetrics {
        let labels = FunctionLabels {
            namespace: namespace.to_owned(),
            plugin: plugin.to_owned(),
            function: function.to_owned(),
        };
        FunctionMetrics {
            ok: self.calls.get_or_create_owned(&labels.call("ok")),
            problems: [const { OnceLock::new() }; ProblemType::ALL.len()],
            duration: self.duration.get_or_create_owned(&labels),
            calls: self.calls.clone(),
            labels,
        }
    }

    /// Removes the metrics of a function that is gone.
    pub(crate) fn forget(&self, namespace: &str, plugin: &str, function: &str) {
        let labels = FunctionLabels {
            namespace: namespace.to_owned(),
            plugin: plugin.to_owned(),
            function: function.to_owned(),
        };
        for outcome in ProblemType::ALL.map(ProblemType::as_str).into_iter().chain(["ok"]) {
            self.calls.remove(&labels.call(outcome));
        }
        self.duration.remove(&labels);
    }
}

impl FunctionLabels {
    fn call(&self, outcome: &str) -> CallLabels {
        CallLabels {
            namespace: self.namespace.clone(),
            plugin: self.plugin.clone(),
            function: self.function.clone(),
            outcome: outcome.to_owned(),
        }
    }
}

impl FunctionMetrics {
    pub(crate) fn answered(&self, outcome: Result<(), ProblemType>, took: Duration) {
        match outcome {
            Ok(()) => self.ok.inc(),
            Err(problem_type) => self.problems[problem_type as usize]
                .get_or_init(|| self.calls.get_or_create_owned(&self.labels.call(problem_type.as_str())))
                .inc(),
        };
        self.duration.observe(took.as_secs_f64());
    }
}
