//! The command-line options of `samovar-agent`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use samovar_crds::Quantity;
use samovar_runtime::{CompileLimits, Compiler, IpNet};
use samovar_telemetry::logs;

use crate::{cgroup, load::contents::OperatorOptions};

/// The node agent of Samovar: pulls, compiles and serves what the operator assigns to this node.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "samovar-agent", version, max_term_width = 110)]
pub struct Options {
    /// The name of the node that this agent runs on.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// The UID of this agent's Pod.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// The address that takes calls.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The address of the admin port: /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:8081")]
    pub ops_listen: SocketAddr,
    /// The directory of modules, artifacts and the checkpoint of assignments.
    #[arg(long, default_value = "/var/lib/samovar")]
    pub state_dir: PathBuf,
    /// A registry to reach over plain HTTP; loopback addresses always are. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
    /// The Docker `config.json` with the credentials of registries.
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// Access to the operator, for the contents of ConfigMaps and Secrets.
    #[command(flatten)]
    pub operator: OperatorOptions,
    /// The most concurrent compiles.
    #[arg(long, default_value_t = 2)]
    pub max_compiles: usize,
    /// The most instances at once, over all plugins.
    #[arg(long, default_value_t = 2000)]
    pub max_instances: u32,
    /// Bounds on memory, disk and compiling.
    #[command(flatten)]
    pub bounds: Bounds,
    /// A range of addresses that is closed to guests unless their policy names an address or a range within it, as
    /// private ranges always are. For the cluster's own ranges if they are public. May be repeated.
    #[arg(long, value_name = "CIDR")]
    pub closed_network: Vec<IpNet>,
    /// A namespace whose assignments are served. May be repeated. Default: all namespaces.
    #[arg(long, value_name = "NAMESPACE")]
    pub watch_namespace: Vec<String>,
    /// The time for which a plugin that leaves this node, or all of them after SIGTERM, still take calls, until the
    /// cluster's endpoints route them elsewhere.
    #[arg(long, default_value = "5s")]
    pub drain_delay: samovar_crds::Duration,
    /// The time that running calls get after the drain delay. Both together must be less than the Pod's
    /// terminationGracePeriodSeconds.
    #[arg(long, default_value = "25s")]
    pub drain_deadline: samovar_crds::Duration,
    /// The format of log lines: text or json.
    #[arg(long, default_value = "text")]
    pub log_format: logs::Format,
}

/// Bounds on the memory, disk and compiling of an agent, in a cluster and without one.
#[derive(Clone, Debug, clap::Args)]
pub struct Bounds {
    /// The most memory of guests, their code and the bodies of their calls together; past it, calls are refused with
    /// 503. Default: this process's own cgroup limit less a reserve for the agent itself; without a limit, no bound.
    #[arg(long, value_name = "QUANTITY")]
    pub memory_budget: Option<Quantity>,
    /// The most disk space of modules and their compiled code together. Evicts those that nothing uses; a new module
    /// that does not fit beside those in use is refused.
    #[arg(long, value_name = "QUANTITY", default_value = "4Gi")]
    pub cache_size: Quantity,
    /// The longest compile of one module. Past it, its revision fails with `CompileFailed`.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub compile_timeout: samovar_crds::Duration,
    /// The address space of each process that compiles a module. If it needs more, it ends, and the module's revision
    /// fails with `CompileFailed`.
    #[arg(long, value_name = "QUANTITY", default_value = "4Gi")]
    pub compile_memory: Quantity,
}

/// The least reserve below the cgroup's limit. An idle agent takes about 20 MiB, 200 plugins some 25 MiB more, and as
/// much again is for memory that no budget counts: the buffers of connections, the slack of the allocator.
const RESERVE_BYTES: u64 = 96 << 20;

impl Bounds {
    /// A compiler that starts `program` with the argument `compile` for each module, within these bounds.
    pub fn compiler(&self, program: PathBuf) -> Compiler {
        let limits = CompileLimits { time: self.compile_timeout.into(), memory: self.compile_memory.bytes() };
        Compiler::Child { program, args: vec!["compile".into()], limits }
    }

    /// The memory budget in bytes, if there is one. Logs where it comes from.
    pub(crate) fn memory(&self) -> Option<u64> {
        let limit = cgroup::memory_limit(Path::new("/"));
        if let Some(budget) = &self.memory_budget {
            let (asked, most) = (budget.bytes(), limit.map_or(u64::MAX, budget_within));
            if asked > most {
                tracing::warn!(
                    asked,
                    most,
                    "--memory-budget exceeds what this process's cgroup limit allows; the budget is smaller"
                );
            }
            tracing::info!(bytes = asked.min(most), "memory budget, from --memory-budget");
            return Some(asked.min(most));
        }
        let Some(limit) = limit else {
            tracing::info!("no memory budget: no cgroup limits this process; --memory-budget sets one");
            return None;
        };
        let bytes = budget_within(limit);
        tracing::info!(bytes, limit, "memory budget, from this process's cgroup limit");
        Some(bytes)
    }
}

/// The budget under a cgroup limit: all but the reserve, which grows with the limit, since the memory that no budget
/// counts grows with the load. Never less than a quarter, since an agent that refuses every call serves nobody.
fn budget_within(limit: u64) -> u64 {
    limit.saturating_sub(RESERVE_BYTES.max(limit / 5)).max(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_leaves_a_reserve_for_the_agent() {
        for (limit, budget) in [(64, 16), (128, 32), (256, 160), (512, 409), (4096, 3276)] {
            assert_eq!(budget_within(limit << 20) >> 20, budget, "{limit} MiB");
        }
    }
}
