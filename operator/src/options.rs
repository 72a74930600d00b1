//! The flags of `samovar-operator`.

use std::{net::SocketAddr, path::PathBuf};

use samovar_crds::names;
use samovar_telemetry::logs;

/// The operator of Samovar: resolves images, places plugins on nodes, and reports their status.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "samovar-operator", version, max_term_width = 110)]
pub struct Options {
    /// The namespace of the agents' Pods.
    #[arg(long, env = "POD_NAMESPACE", default_value = "samovar-system")]
    pub agent_namespace: String,
    /// The label selector of the agents' Pods.
    #[arg(long, default_value = names::AGENT_SELECTOR)]
    pub agent_selector: String,
    /// The agents' ServiceAccount in that namespace. --contents-listen accepts its tokens alone.
    #[arg(long, value_name = "NAME", default_value = "samovar-agent")]
    pub agent_service_account: String,
    /// The address at which agents request the contents of ConfigMaps and Secrets, over HTTPS.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub contents_listen: SocketAddr,
    /// A host by which agents reach that address, for its certificate; may be repeated.
    #[arg(long, value_name = "HOST", default_value = "samovar-operator.samovar-system.svc")]
    pub contents_host: Vec<String>,
    /// A namespace whose plugins are reconciled; may be repeated. Default: all namespaces.
    #[arg(long, value_name = "NAMESPACE")]
    pub watch_namespace: Vec<String>,
    /// Reconcile only while this process holds the Lease `samovar-operator` in the agents' namespace, which is the
    /// operator's own too. Of several replicas one leads and the others stand by.
    #[arg(long, requires = "pod_name")]
    pub leader_elect: bool,
    /// The identity of the Lease's holder: the Pod's name.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// The address of the admin port: /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:8081")]
    pub ops_listen: SocketAddr,
    /// A registry to contact over plain HTTP, as loopback addresses always are; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
    /// The Docker `config.json` with the registries' credentials.
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// The format of log lines: text or json.
    #[arg(long, default_value = "text")]
    pub log_format: logs::Format,
}
