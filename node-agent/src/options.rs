//! The flags of `samovar-agent`.

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
    /// The node that this agent runs on.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// The UID of the Pod that this agent is.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// Where calls are taken.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, default_value = "0.0.0.0:8081")]
    pub ops_listen: SocketAddr,
    /// Where modules, artifacts and the last known assignments are kept.
    #[arg(long, default_value = "/var/lib/samovar")]
    pub state_dir: PathBuf,
    /// A registry that is spoken to over plain HTTP; loopback addresses always are. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
    /// The Docker `config.json` with the registries' credentials.
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// Where the contents of ConfigMaps and Secrets come from.
    #[command(flatten)]
    pub operator: OperatorOptions,
    /// Modules that are compiled at once.
    #[arg(long, default_value_t = 2)]
    pub max_compiles: usize,
    /// Instances that may exist at once, over all plugins.
    #[arg(long, default_value_t = 2000)]
    pub max_instances: u32,
    /// How much memory and disk it may take.
    #[command(flatten)]
    pub bounds: Bounds,
    /// A range that guests reach only where their policy names an address or a range within it, as it is with private
    /// ranges anyway: the cluster's own, where these are public addresses. May be repeated.
    #[arg(long, value_name = "CIDR")]
    pub closed_network: Vec<IpNet>,
    /// A namespace whose assignments are served; may be repeated. Left out: all namespaces.
    #[arg(long, value_name = "NAMESPACE")]
    pub watch_namespace: Vec<String>,
    /// How long calls are still taken for what leaves this node, a plugin or, after SIGTERM, all of them: until the
    /// cluster sends them elsewhere.
    #[arg(long, default_value = "5s")]
    pub drain_delay: samovar_crds::Duration,
    /// How long calls may go on after that. Together less than the Pod's terminationGracePeriodSeconds.
    #[arg(long, default_value = "25s")]
    pub drain_deadline: samovar_crds::Duration,
    /// The form of log lines: text or json.
    #[arg(long, default_value = "text")]
    pub log_format: logs::Format,
}

/// How much memory, disk and compiling an agent may take, in a cluster and without one.
#[derive(Clone, Debug, clap::Args)]
pub struct Bounds {
    /// The most memory that guests, their code and the bodies of their calls may take together; past it, calls are
    /// refused with 503. Default: this process's own cgroup limit less a reserve for the agent itself; without a
    /// limit, no bound.
    #[arg(long, value_name = "QUANTITY")]
    pub memory_budget: Option<Quantity>,
    /// The most disk that modules and their compiled code may take together. What nothing uses goes first; a new
    /// module that does not fit beside those in use is refused.
    #[arg(long, value_name = "QUANTITY", default_value = "4Gi")]
    pub cache_size: Quantity,
    /// The longest that one module may compile. Past it, its revision fails with `CompileFailed`.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub compile_timeout: samovar_crds::Duration,
    /// The address space of each process that compiles a module. One that needs more ends, and its revision fails with
    /// `CompileFailed`.
    #[arg(long, value_name = "QUANTITY", default_value = "4Gi")]
    pub compile_memory: Quantity,
}

/// The least that is kept back from the cgroup's limit. An idle agent takes about 20 MiB, 200 plugins some 25 MiB
/// more, and as much again is for what no budget counts: connections' buffers, the allocator's slack.
const RESERVE_BYTES: u64 = 96 << 20;

impl Bounds {
    /// A compiler in processes that `program` starts with the argument `compile`, within these bounds.
    pub fn compiler(&self, program: PathBuf) -> Compiler {
        let limits = CompileLimits { time: self.compile_timeout.into(), memory: self.compile_memory.bytes() };
        Compiler::Child { program, args: vec!["compile".into()], limits }
    }

    /// The memory budget in bytes, if there is one. The log says whence.
    pub(crate) fn memory(&self) -> Option<u64> {
        let limit = cgroup::memory_limit(Path::new("/"));
        if let Some(budget) = &self.memory_budget {
            let (asked, most) = (budget.bytes(), limit.map_or(u64::MAX, budget_within));
            if asked > most {
                tracing::warn!(
                    asked,
                    most,
                    "--memory-budget is more than this process's cgroup limit allows; less is given"
                );
            }
            tracing::info!(bytes = asked.min(most), "memory budget, as --memory-budget says");
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

/// What guests may have of a limit: all but the reserve, which grows with the limit, since what no budget counts
/// grows with what runs. Under a limit that the reserve would eat up, a quarter: an
/// agent that refuses every call serves nobody.
fn budget_within(limit: u64) -> u64 {
    limit.saturating_sub(RESERVE_BYTES.max(limit / 5)).max(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_the_agent_its_reserve() {
        for (limit, budget) in [(64, 16), (128, 32), (256, 160), (512, 409), (4096, 3276)] {
            assert_eq!(budget_within(limit << 20) >> 20, budget, "{limit} MiB");
        }
    }
}
