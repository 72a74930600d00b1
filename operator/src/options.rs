//! The flags of `samovar-operator`.

use std::{net::SocketAddr, path::PathBuf};

use samovar_crds::names;
use samovar_telemetry::logs;

/// The operator of Samovar: resolves images, places plugins on nodes, and says what is true.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "samovar-operator", version, max_term_width = 110)]
pub struct Options {
    /// The namespace of the agents' Pods.
    #[arg(long, env = "POD_NAMESPACE", default_value = "samovar-system")]
    pub agent_namespace: String,
    /// The labels of the agents' Pods.
    #[arg(long, default_value = names::AGENT_SELECTOR)]
    pub agent_selector: String,
    /// The agents' ServiceAccount, in that namespace: whose tokens are answered on --contents-listen.
    #[arg(long, value_name = "NAME", default_value = "samovar-agent")]
    pub agent_service_account: String,
    /// Where agents are given what the ConfigMaps and Secrets hold that plugins name, over HTTPS.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub contents_listen: SocketAddr,
    /// What agents call that port's host, as its certificate says; may be repeated.
    #[arg(long, value_name = "HOST", default_value = "samovar-operator.samovar-system.svc")]
    pub contents_host: Vec<String>,
    /// A namespace whose plugins are served; may be repeated. Left out: all namespaces.
    #[arg(long, value_name = "NAMESPACE")]
    pub watch_namespace: Vec<String>,
    /// Work only while this process holds the Lease `samovar-operator` in the agents' namespace, which is the
    /// operator's own. With several replicas one works and the others stand by.
    #[arg(long, requires = "pod_name")]
    pub leader_elect: bool,
    /// Under what name the Lease is held: the Pod's.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, default_value = "0.0.0.0:8081")]
    pub ops_listen: SocketAddr,
    /// A registry that is spoken to over plain HTTP; loopback addresses always are. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
    /// The Docker `config.json` with the registries' credentials.
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// The form of log lines: text or json.
    #[arg(long, default_value = "text")]
    pub log_format: logs::Format,
}
