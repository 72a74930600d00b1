//! What is true at the moment of a scrape: memory drawn, calls that run and wait, instances that are ready. Costs calls nothing.

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

/// Asks the plugins that answer calls, and the budget. An agent that is gone has none.
pub(crate) struct Gauges(Weak<Server>);

/// A gauge's name, its help, and where it is read.
type Gauge = (&'static str, &'static str, fn(&Plugin) -> u32);

const GAUGES: [Gauge; 3] = [
    ("calls_running", "Calls that run now", Plugin::running),
    ("calls_waiting", "Calls that wait in the queue now", Plugin::waiting),
    ("instances_ready", "Instances that wait for a call now", Plugin::ready_instances),
];

type MemoryGauge = (&'static str, &'static str, fn(&MemoryBudget) -> Option<u64>);

const MEMORY_GAUGES: [MemoryGauge; 2] = [
    (
        "memory_budget",
        "The most memory that guests' demand may take; not there without a bound",
        MemoryBudget::total,
    ),
    ("memory_used", "Memory that guests' demand takes now", |budget| Some(budget.used())),
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
