//! Gauges that each scrape reads: reserved memory, running and waiting calls, ready instances. They cost calls nothing.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};
use samovar_runtime::{MemoryBudget, Plugin};

use crate::server::Server;

/// Reads the memory budget and the serving plugins; nothing once the agent is gone.
pub(crate) struct Gauges(Weak<Server>);

/// A gauge's name, its help, and its reader.
type Gauge = (&'static str, &'static str, fn(&Plugin) -> u32);

const GAUGES: [Gauge; 3] = [
    ("calls_running", "Running calls", Plugin::running),
    ("calls_waiting", "Calls that wait in the queue", Plugin::waiting),
    ("instances_ready", "Instances that are ready for a call", Plugin::ready_instances),
];

type MemoryGauge = (&'static str, &'static str, fn(&MemoryBudget) -> Option<u64>);

const MEMORY_GAUGES: [MemoryGauge; 2] = [
    ("memory_budget", "Size of the memory budget; absent if it has no bound", MemoryBudget::total),
    ("memory_used", "Memory that is reserved from the budget", |budget| Some(budget.used())),
];

impl Gauges {
    pub(crate) fn new(server: &Arc<Server>) -> Self {
        Self(Arc::downgrade(server))
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(server) = self.0.upgrade() else { return Ok(()) };
        for (name, help, read) in MEMORY_GAUGES {
            if let Some(bytes) = read(&server.memory) {
                let bytes = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
                bytes.encode(encoder.encode_descriptor(
                    name,
                    help,
                    Some(&Unit::Bytes),
                    MetricType::Gauge,
                )?)?;
            }
        }
        let routes = server.routes.load_full();
        for (name, help, read) in GAUGES {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for serving in routes.serving() {
                let labels =
                    [("namespace", serving.key.namespace.as_str()), ("plugin", serving.key.plugin.as_str())];
                ConstGauge::new(i64::from(read(&serving.runs))).encode(gauge.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}
