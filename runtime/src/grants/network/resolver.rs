//! The DNS resolver: fully qualified names only, a bounded number of lookups, and a bounded cache.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::Name,
};
use tokio::sync::Semaphore;

use crate::memory::budget::Reservation;

/// The most concurrent lookups in this process; others wait. A few plugins cannot use them all.
const LOOKUPS: usize = 256;
/// The bytes that are reserved for a lookup: two answers, each as large as DNS allows.
const LOOKUP_BYTES: u64 = 2 << 16;
/// The timeout of a lookup, waiting included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most addresses of one name; further ones are ignored.
const ADDRESSES: usize = 16;
/// The most names in the cache.
const CACHE_ENTRIES: usize = 1024;
/// The longest that a name stays in the cache, whatever its own time to live.
const MAX_TTL: Duration = Duration::from_secs(30);

/// Queries the name servers.
pub(super) struct Resolver {
    /// If empty, those of this machine.
    name_servers: Vec<SocketAddr>,
    client: OnceLock<TokioResolver>,
    lookups: Semaphore,
    cache: Mutex<HashMap<Box<str>, CacheEntry>>,
}

/// The time at which an entry expires, and the addresses of the name.
type CacheEntry = (Instant, Arc<[IpAddr]>);

/// The reason for which a name has no address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    NoSuchName,
    TimedOut,
    /// The name servers, or this machine, failed.
    Failed,
}

impl Resolver {
    pub(super) fn new(name_servers: Vec<SocketAddr>) -> Self {
        let (client, lookups) = (OnceLock::new(), Semaphore::new(LOOKUPS));
        Self { name_servers, client, lookups, cache: Mutex::default() }
    }

    /// Looks up a name as fully qualified: search domains are not tried.
    pub(super) async fn lookup(
        &self,
        name: &str,
        reservation: &Reservation,
    ) -> Result<Arc<[IpAddr]>, Unresolved> {
        if let Some(addresses) = self.cached(name) {
            return Ok(addresses);
        }
        let lookup = async {
            let _permit = self.lookups.acquire().await.map_err(|_| Unresolved::Failed)?;
            let answer_bytes = reservation.new_empty();
            answer_bytes.try_grow(LOOKUP_BYTES).map_err(|_| Unresolved::Failed)?;
            let mut fqdn = Name::from_ascii(name).map_err(|_| Unresolved::NoSuchName)?;
            fqdn.set_fqdn(true);
            let answer = self.client()?.lookup_ip(fqdn).await.map_err(|error| match error {
                error if error.is_nx_domain() || error.is_no_records_found() => Unresolved::NoSuchName,
                NetError::Timeout => Unresolved::TimedOut,
                _ => Unresolved::Failed,
            })?;
            let expires = answer.valid_until().min(Instant::now() + MAX_TTL);
            Ok((answer.iter().take(ADDRESSES).collect::<Arc<[IpAddr]>>(), expires))
        };
        let (addresses, expires) =
            tokio::time::timeout(TIMEOUT, lookup).await.unwrap_or(Err(Unresolved::TimedOut))?;
        self.insert(name, &addresses, expires);
        Ok(addresses)
    }

    fn client(&self) -> Result<&TokioResolver, Unresolved> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.connect().map_err(|error| {
            tracing::error!(%error, "cannot create the DNS resolver: check /etc/resolv.conf");
            Unresolved::Failed
        })?;
        Ok(self.client.get_or_init(|| client))
    }

    fn connect(&self) -> Result<TokioResolver, NetError> {
        let mut builder = if self.name_servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.name_servers.iter().map(|server| {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                config.connections.iter_mut().for_each(|connection| connection.port = server.port());
                config
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = ResolverOpts::default();
            builder
        };
        let options = builder.options_mut();
        // The hosts file of this machine is not for guests.
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // The cache here replaces that of the crate, since its size is known.
        options.cache_size = 0;
        builder.build()
    }

    fn cached(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (expires, addresses) = cache.get(name)?;
        (*expires > Instant::now()).then(|| addresses.clone())
    }

    fn insert(&self, name: &str, addresses: &Arc<[IpAddr]>, expires: Instant) {
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES {
            cache.retain(|_, (expires, _)| *expires > now);
        }
        if expires > now && cache.len() < CACHE_ENTRIES {
            cache.insert(name.into(), (expires, addresses.clone()));
        }
    }
}
