//! Outbound access, the one way of guests to hosts: resolves a name, checks the addresses, and returns those that the
//! caller connects to without another lookup. Nothing in this crate resolves a name or connects for a guest without it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use super::{
    NetworkGrant, NetworkOptions, address,
    host::HostName,
    policy::{self, Purpose},
    resolver::{Resolver, Unresolved},
    tls,
};
use crate::{
    memory::budget::{MemoryBudget, Reservation},
    output::log::GuestLog,
};

/// The network state that all plugins of this process share, through which none can observe another.
pub(crate) struct Network {
    closed: Vec<IpNet>,
    resolver: Resolver,
    tls: OnceLock<TlsConnector>,
    memory: MemoryBudget,
}

impl Network {
    pub(crate) fn new(options: &NetworkOptions, memory: MemoryBudget) -> Self {
        let NetworkOptions { closed, name_servers } = options.clone();
        Self { closed, resolver: Resolver::new(name_servers), tls: OnceLock::new(), memory }
    }

    /// An empty reservation in the memory budget.
    pub(super) fn reservation(&self) -> Reservation {
        self.memory.reservation()
    }

    /// The TLS connector, with the root certificates that this machine trusts.
    pub(super) fn tls(&self) -> Result<&TlsConnector, rustls::Error> {
        match self.tls.get() {
            Some(connector) => Ok(connector),
            None => tls::connector().map(|connector| self.tls.get_or_init(|| connector)),
        }
    }
}

/// The outbound access of one plugin's guests.
pub(crate) struct OutboundAccess {
    network: Arc<Network>,
    grant: Option<NetworkGrant>,
    log: GuestLog,
    requests: Arc<Semaphore>,
    lookups: Semaphore,
}

/// The reason for which a guest does not reach a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The policy does not allow the host.
    NotAllowed,
    /// The policy allows the host, but all its addresses are closed.
    Closed,
    Unresolved(Unresolved),
}

/// The most concurrent requests of all instances of a plugin.
const REQUESTS: usize = 128;
/// The most concurrent lookups of a plugin; others wait. A plugin whose lookups are never answered leaves some to its
/// neighbours.
const LOOKUPS: usize = 8;

impl OutboundAccess {
    pub(crate) fn new(network: Arc<Network>, grant: Option<NetworkGrant>, log: GuestLog) -> Self {
        let (requests, lookups) = (Arc::new(Semaphore::new(REQUESTS)), Semaphore::new(LOOKUPS));
        Self { network, grant, log, requests, lookups }
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Acquires a permit for one more request of this plugin, if there is one.
    pub(super) fn acquire_request(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.requests).try_acquire_owned().ok()
    }

    /// Returns `true` if the policy allows anything to sockets.
    pub(super) fn allows_sockets(&self) -> bool {
        policy::allow_sockets(self.patterns())
    }

    /// The addresses at which a host may be reached.
    pub(super) async fn addresses(&self, host: &HostName, purpose: Purpose) -> Result<Vec<IpAddr>, Refusal> {
        let name = match host {
            HostName::Name(name) => name,
            HostName::Address(address) => {
                let permitted = self.permits(host, *address, purpose);
                return if permitted {
                    Ok(vec![*address])
                } else {
                    Err(self.refuse_address(*address, purpose))
                };
            }
        };
        // Checked before the lookup: a query for a name that is not allowed could carry data out.
        if !policy::allow_name(self.patterns(), host, purpose) {
            self.log_line(&format!("the policy does not allow {host}; {}", advice(host, purpose)));
            return Err(Refusal::NotAllowed);
        }
        let failed = Refusal::Unresolved(Unresolved::Failed);
        let _permit = self.lookups.acquire().await.map_err(|_| failed)?;
        let reservation = self.network.reservation();
        let found = self.network.resolver.lookup(name, &reservation).await.map_err(Refusal::Unresolved)?;
        let permitted: Vec<_> =
            found.iter().copied().filter(|address| self.permits(host, *address, purpose)).collect();
        match found.first() {
            _ if !permitted.is_empty() => Ok(permitted),
            None => Err(Refusal::Unresolved(Unresolved::NoSuchName)),
            Some(&address) => {
                let what = address::closed(address, &self.network.closed).1;
                let advice = advice(&HostName::Address(address.to_canonical()), purpose);
                self.log_line(&format!(
                    "the policy allows {host}, but not its address {address} ({what}); {advice}"
                ));
                Err(Refusal::Closed)
            }
        }
    }

    /// Returns `true` if the policy permits a connection to this host at this address.
    pub(super) fn permits(&self, host: &HostName, address: IpAddr, purpose: Purpose) -> bool {
        let (closed, _) = address::closed(address, &self.network.closed);
        let address = address.to_canonical();
        let by_address = policy::name_address(self.patterns(), address, purpose, &closed);
        match host {
            HostName::Address(_) => by_address,
            HostName::Name(_) => {
                policy::allow_name(self.patterns(), host, purpose) && (closed.is_empty() || by_address)
            }
        }
    }

    fn refuse_address(&self, address: IpAddr, purpose: Purpose) -> Refusal {
        let (closed, what) = address::closed(address, &self.network.closed);
        let advice = advice(&HostName::Address(address), purpose);
        self.log_line(&format!("the policy does not allow {address} ({what}); {advice}"));
        if closed.is_empty() { Refusal::NotAllowed } else { Refusal::Closed }
    }

    /// Logs that a socket to this address is refused.
    pub(super) fn refuse_socket(&self, address: SocketAddr) {
        self.refuse_address(address.ip().to_canonical(), Purpose::Socket { port: address.port() });
    }

    /// Writes a line to the plugin's log, which its guests cannot read.
    pub(super) fn log_line(&self, line: &str) {
        self.log.line("network", line.as_bytes());
    }

    fn patterns(&self) -> &[policy::Pattern] {
        self.grant.as_ref().map_or(&[], |grant| &grant.hosts)
    }
}

/// The entry of `allowedHosts` that would allow the host.
fn advice(host: &HostName, purpose: Purpose) -> String {
    let port = match purpose {
        Purpose::Http { port, default_port } if port == default_port => String::new(),
        Purpose::Http { port, .. } | Purpose::Socket { port } => format!(":{port}"),
        Purpose::Lookup => ":PORT".to_owned(),
    };
    format!("to allow it, add `{host}{port}` to `securityPolicy.network.allowedHosts`")
}
