//! The flags of `samovar-agent`.

use std::{net::SocketAddr, path::PathBuf};

use samovar_telemetry::logs;

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
    /// Modules that are compiled at once.
    #[arg(long, default_value_t = 2)]
    pub max_compiles: usize,
    /// Instances that may exist at once, over all plugins.
    #[arg(long, default_value_t = 2000)]
    pub max_instances: u32,
    /// How long calls may go on after SIGTERM. Less than the Pod's terminationGracePeriodSeconds.
    #[arg(long, default_value = "25s")]
    pub drain_deadline: samovar_crds::Duration,
    /// The form of log lines: text or json.
    #[arg(long, default_value = "text")]
    pub log_format: logs::Format,
}
