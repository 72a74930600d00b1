//! The one place through which guests reach hosts: it resolves a name, checks what it resolved to, and gives addresses
//! that are connected to as they are. Nothing else of this crate looks up a name or opens a connection for a guest.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use super::{
    NetworkGrant, NetworkOptions, address,
    policy::{self, HostName, Purpose},
    resolver::{Resolver, Unresolved},
    tls,
};
use crate::{
    memory::budget::{MemoryBudget, Reservation},
    output::log::GuestLog,
};

/// What all plugins of this process share of the network: nothing that one could tell of another.
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

    /// An empty share of the memory budget.
    pub(super) fn reservation(&self) -> Reservation {
        self.memory.reservation()
    }

    /// What speaks TLS, with the roots that this machine trusts.
    pub(super) fn tls(&self) -> Result<&TlsConnector, rustls::Error> {
        match self.tls.get() {
            Some(connector) => Ok(connector),
            None => tls::connector().map(|connector| self.tls.get_or_init(|| connector)),
        }
    }
}

/// How the guests of one plugin reach hosts.
pub(crate) struct OutboundAccess {
    network: Arc<Network>,
    grant: Option<NetworkGrant>,
    log: GuestLog,
    requests: Arc<Semaphore>,
    lookups: Semaphore,
}

/// Why a host is not reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The policy does not allow the host.
    NotAllowed,
    /// It allows the host, which has only addresses that are closed.
    Closed,
    Unresolved(Unresolved),
}

/// Requests at once of all instances of a plugin.
const REQUESTS: usize = 128;
/// Lookups at once of a plugin; others wait. One whose names are never answered leaves room for its neighbours.
const LOOKUPS: usize = 8;

impl OutboundAccess {
    pub(crate) fn new(network: Arc<Network>, grant: Option<NetworkGrant>, log: GuestLog) -> Self {
        let (requests, lookups) = (Arc::new(Semaphore::new(REQUESTS)), Semaphore::new(LOOKUPS));
        Self { network, grant, log, requests, lookups }
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Room for one more request of this plugin.
    pub(super) fn acquire_request(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.requests).try_acquire_owned().ok()
    }

    /// Whether sockets are of any use to its guests.
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
        // Before it is looked up: a name that is not allowed is not even asked for, and carries nothing out.
        if !policy::allow_name(self.patterns(), host, purpose) {
            self.log_line(&format!("{host} is not allowed: {}", advice(host, purpose)));
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
                let beside = advice(&HostName::Address(address.to_canonical()), purpose);
                self.log_line(&format!(
                    "{host} is allowed, and resolves to {address}, which is not: {what}; {beside}"
                ));
                Err(Refusal::Closed)
            }
        }
    }

    /// Whether what was asked for as this host may be reached at this address.
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
        self.log_line(&format!("{address} ({what}) is not allowed: {advice}"));
        if closed.is_empty() { Refusal::NotAllowed } else { Refusal::Closed }
    }

    /// The same for a socket, which was to be opened to an address.
    pub(super) fn refuse_socket(&self, address: SocketAddr) {
        self.refuse_address(address.ip().to_canonical(), Purpose::Socket { port: address.port() });
    }

    /// A line in the plugin's log. Its guests cannot read that.
    pub(super) fn log_line(&self, line: &str) {
        self.log.line("network", line.as_bytes());
    }

    fn patterns(&self) -> &[policy::Pattern] {
        self.grant.as_ref().map_or(&[], |grant| &grant.hosts)
    }
}

/// Which grant would allow it.
fn advice(host: &HostName, purpose: Purpose) -> String {
    let port = match purpose {
        Purpose::Http { port, default_port } if port == default_port => String::new(),
        Purpose::Http { port, .. } | Purpose::Socket { port } => format!(":{port}"),
        Purpose::Lookup => ":PORT".to_owned(),
    };
    format!("add `{host}{port}` to `securityPolicy.network.allowedHosts` if it should be")
}
