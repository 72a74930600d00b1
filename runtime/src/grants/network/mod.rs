//! The network: which hosts a guest may reach, and the one way there.

mod address;
mod create;
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

/// What is no host that can be allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{host}` cannot be allowed: {reason}")]
pub struct InvalidHost {
    host: String,
    reason: &'static str,
}

/// What this process knows of the network around it.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {
    /// Ranges that guests reach only where their policy names what lies within them, as it is with private ones: the
    /// cluster's own, where these are public addresses.
    pub closed: Vec<IpNet>,
    /// The name servers that are asked; none: those of this machine.
    pub name_servers: Vec<SocketAddr>,
}

impl NetworkGrant {
    /// A grant of these hosts, each `host[:port]`. The host is a name, `*.` and a name (one label or more before it), an
    /// address or a CIDR; the port a number or `*`, and without it the scheme's.
    pub fn new(hosts: &[String]) -> Result<Self, InvalidHost> {
        let pattern =
            |host: &String| Pattern::parse(host).map_err(|reason| InvalidHost { host: host.clone(), reason });
        Ok(Self { hosts: hosts.iter().map(pattern).collect::<Result<_, _>>()? })
    }
}

/// What the functions of `wasi:sockets` work on.
pub(crate) struct NetworkView<'a> {
    pub(crate) wasi: WasiCtxView<'a>,
    pub(crate) sockets: &'a Sockets,
}

/// Whether an import is of no use where no network is granted. Sockets are not such a one: std imports them, used or not.
pub(crate) fn requires_network(import: &str) -> bool {
    ["wasi:http/outgoing-handler@", "wasi:http/client@"].into_iter().any(|name| import.starts_with(name))
}

/// What one instance has of the network.
pub(crate) fn for_instance(outbound: &Arc<OutboundAccess>) -> (Outgoing, Sockets) {
    (Outgoing::new(Arc::clone(outbound)), Sockets::new(Arc::clone(outbound)))
}
