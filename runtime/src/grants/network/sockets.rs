//! Sockets of guests (`wasi:sockets`): connections and datagrams to allowed hosts, and no listening.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wasmtime_wasi::{WasiCtxBuilder, sockets::SocketAddrUse};

use super::{
    create::SocketReservation,
    host::HostName,
    outbound::{OutboundAccess, Refusal},
    policy::Purpose,
};

/// The most addresses that an instance remembers from its lookups; the oldest are dropped first.
const RESOLVED_ADDRESSES: usize = 64;

/// The sockets of one instance.
#[derive(Clone)]
pub(crate) struct Sockets {
    outbound: Arc<OutboundAccess>,
    /// The names that this instance looked up, and their addresses. The policy judges a socket to one of them by the name.
    resolved: Arc<Mutex<Vec<(HostName, IpAddr)>>>,
    reservation: Arc<Mutex<SocketReservation>>,
}

impl Sockets {
    pub(super) fn new(outbound: Arc<OutboundAccess>) -> Self {
        let reservation = SocketReservation::new(outbound.network().reservation());
        Self { outbound, resolved: Arc::default(), reservation: Arc::new(Mutex::new(reservation)) }
    }

    /// Returns `true` if the policy allows anything to sockets.
    pub(crate) fn are_granted(&self) -> bool {
        self.outbound.allows_sockets()
    }

    /// Configures the sockets of an instance.
    pub(crate) fn build(&self, builder: &mut WasiCtxBuilder) {
        let granted = self.are_granted();
        // `lookup` replaces wasmtime's lookups of names.
        builder.allow_tcp(granted).allow_udp(granted).allow_ip_name_lookup(false);
        if granted {
            let sockets = self.clone();
            builder.socket_addr_check(move |address, purpose| {
                let permits = sockets.permits(address, purpose);
                Box::pin(async move { permits })
            });
        }
    }

    /// Their reservation in the memory budget.
    pub(super) fn reservation(&self) -> MutexGuard<'_, SocketReservation> {
        self.reservation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up the addresses at which sockets may reach a host, and remembers them with its name.
    pub(super) async fn lookup(&self, host: HostName) -> Result<Vec<IpAddr>, Refusal> {
        let found = self.outbound.addresses(&host, Purpose::Lookup).await?;
        if let HostName::Name(_) = host {
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.retain(|(known, _)| *known != host);
            resolved.extend(found.iter().map(|&address| (host.clone(), address)));
            let over = resolved.len().saturating_sub(RESOLVED_ADDRESSES);
            resolved.drain(..over);
        }
        Ok(found)
    }

    fn permits(&self, address: SocketAddr, purpose: SocketAddrUse) -> bool {
        match purpose {
            // Only the implicit bind before a connection, or an explicit one to the same: port 0 of the unspecified address.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
                address.ip().is_unspecified() && address.port() == 0
            }
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => {
                let permitted = self.is_reachable(address);
                if !permitted {
                    self.outbound.refuse_socket(address);
                }
                permitted
            }
            SocketAddrUse::UdpReceive => self.is_reachable(address),
        }
    }

    fn is_reachable(&self, address: SocketAddr) -> bool {
        let (ip, purpose) = (address.ip(), Purpose::Socket { port: address.port() });
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let by_name = resolved.iter().filter(|(_, resolved)| *resolved == ip).map(|(host, _)| host);
        let itself = HostName::Address(ip.to_canonical());
        by_name.chain([&itself]).any(|host| self.outbound.permits(host, ip, purpose))
    }
}
