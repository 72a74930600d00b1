//! `wasi:sockets/ip-name-lookup` for allowed names. wasmtime's would resolve any name with this machine's resolver.

use std::{net::IpAddr, vec};

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    async_trait,
    p2::{
        DynPollable, Network, Pollable,
        bindings::sockets::network::{ErrorCode, IpAddress},
        subscribe,
    },
    runtime::{AbortOnDropJoinHandle, spawn},
};

use super::{NetworkView, create, host::HostName, outbound::Refusal, resolver::Unresolved};

/// The interface in the version of WASI 0.2 that wasmtime links. Guests that import an older version find it too.
const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// The addresses of one name, or the lookup that is still running.
enum AddressStream {
    Pending(AbortOnDropJoinHandle<Answer>),
    Ready(Answer),
}

type Answer = Result<vec::IntoIter<IpAddr>, ErrorCode>;

#[async_trait]
impl Pollable for AddressStream {
    async fn ready(&mut self) {
        if let Self::Pending(found) = self {
            *self = Self::Ready(found.await);
        }
    }
}

impl AddressStream {
    fn next(&mut self) -> Result<Option<IpAddress>, ErrorCode> {
        match self {
            Self::Pending(_) => Err(ErrorCode::WouldBlock),
            Self::Ready(Err(error)) => Err(*error),
            Self::Ready(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
        }
    }
}

/// Replaces wasmtime's lookups, and its functions that create sockets.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> NetworkView<'_>,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut interface = linker.instance(INTERFACE)?;
    interface.resource(
        "resolve-address-stream",
        ResourceType::host::<AddressStream>(),
        move |mut store, rep| {
            let addresses = Resource::<AddressStream>::new_own(rep);
            view(store.data_mut()).wasi.table.delete(addresses)?;
            Ok(())
        },
    )?;
    interface.func_wrap(
        "resolve-addresses",
        move |mut store: StoreContextMut<'_, T>, (network, name): (Resource<Network>, String)| {
            let NetworkView { wasi, sockets } = view(store.data_mut());
            let (table, sockets) = (wasi.table, sockets.clone());
            table.get(&network)?;
            let Some(host) = HostName::parse(&name) else {
                return Ok((Err(ErrorCode::InvalidArgument),));
            };
            let lookup = spawn(async move {
                let found = sockets.lookup(host).await.map_err(|refusal| error_code(&refusal))?;
                Ok(found.into_iter())
            });
            Ok((Ok(table.push(AddressStream::Pending(lookup))?),))
        },
    )?;
    interface.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        move |mut store: StoreContextMut<'_, T>, (addresses,): (Resource<AddressStream>,)| {
            Ok((view(store.data_mut()).wasi.table.get_mut(&addresses)?.next(),))
        },
    )?;
    interface.func_wrap(
        "[method]resolve-address-stream.subscribe",
        move |mut store: StoreContextMut<'_, T>,
              (addresses,): (Resource<AddressStream>,)|
              -> wasmtime::Result<(Resource<DynPollable>,)> {
            Ok((subscribe(view(store.data_mut()).wasi.table, addresses)?,))
        },
    )?;
    create::add_to_linker(linker, view)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn error_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::NotAllowed | Refusal::Closed => ErrorCode::AccessDenied,
        Refusal::Unresolved(Unresolved::NoSuchName) => ErrorCode::NameUnresolvable,
        Refusal::Unresolved(Unresolved::TimedOut | Unresolved::Failed) => ErrorCode::TemporaryResolverFailure,
    }
}
