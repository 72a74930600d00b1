//! The grant of network: the hosts that a guest may reach, and the one way to them.

mod address;
mod create;
mod host;
mod http;
mod lookup;
mod outbound;
mod policy;
mod resolver;
mod sockets;
mod tls;

use std::{net::SocketAddr, sync::Arc};

use ipnet::IpNet;
use wasmtime_wasi::WasiCtxView;

use self::policy::Pattern;

pub(crate) use self::{
    http::{CHUNK_BYTES, Outgoing},
    lookup::add_to_linker,
    outbound::{Network, OutboundAccess},
    sockets::Sockets,
};

/// The hosts that a guest may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkGrant {
    hosts: Arc<[Pattern]>,
}

/// An entry of `allowedHosts` that is not valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{host}` is not a valid host pattern: {reason}")]
pub struct InvalidHost {
    host: String,
    reason: &'static str,
}

/// The network around this process.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {
    /// Ranges that are closed like private ones, so that a guest reaches only those of their addresses that its policy
    /// names: the cluster's own, if these are public addresses.
    pub closed: Vec<IpNet>,
    /// The name servers; if empty, those of this machine.
    pub name_servers: Vec<SocketAddr>,
}

impl NetworkGrant {
    /// A grant of these hosts, each `host[:port]`. The host is a name, `*.` and a name (for one label or more before it),
    /// an address or a CIDR; the port is a number or `*`, and by default that of the scheme.
    pub fn new(hosts: &[String]) -> Result<Self, InvalidHost> {
        let pattern =
            |host: &String| Pattern::parse(host).map_err(|reason| InvalidHost { host: host.clone(), reason });
        Ok(Self { hosts: hosts.iter().map(pattern).collect::<Result<_, _>>()? })
    }
}

/// The data of one instance for the functions of `wasi:sockets`.
pub(crate) struct NetworkView<'a> {
    pub(crate) wasi: WasiCtxView<'a>,
    pub(crate) sockets: &'a Sockets,
}

/// Returns `true` if nothing of an imported interface works without this grant. The interfaces of sockets are exempt,
/// since Rust's std imports them even if they are unused.
pub(crate) fn requires_network(import: &str) -> bool {
    ["wasi:http/outgoing-handler@", "wasi:http/client@"].into_iter().any(|name| import.starts_with(name))
}

/// The requests and sockets of one instance.
pub(crate) fn for_instance(outbound: &Arc<OutboundAccess>) -> (Outgoing, Sockets) {
    (Outgoing::new(Arc::clone(outbound)), Sockets::new(Arc::clone(outbound)))
}
