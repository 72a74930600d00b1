//! How many sockets an instance has: WASI's own would open as many as it asks for, each a file of this process.

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    WasiView as _,
    p2::{
        SocketResult, TcpSocket, UdpSocket,
        bindings::sockets::{
            network::{ErrorCode, IpAddressFamily},
            tcp_create_socket::Host as _,
            udp_create_socket::Host as _,
        },
    },
    sockets::WasiSocketsView as _,
};

use crate::{host::Host, memory::budget::Reservation};

/// Sockets of an instance at once.
const SOCKETS: u64 = 32;
/// What each may take of this node, in bytes: its buffers here and in the kernel.
const SOCKET_BYTES: u64 = 256 << 10;

/// What the sockets of one instance have drawn from the memory budget: for as many as it ever had at once.
pub(super) struct Drawn {
    reservation: Reservation,
    sockets: u64,
}

impl Drawn {
    pub(super) fn new(reservation: Reservation) -> Self {
        Self { reservation, sockets: 0 }
    }

    /// Draws for one more socket than are in the table.
    fn one_more(&mut self, table: &mut ResourceTable) -> Result<(), ErrorCode> {
        let open =
            table.iter_mut().filter(|entry| entry.is::<TcpSocket>() || entry.is::<UdpSocket>()).count();
        let wanted = open as u64 + 1;
        if wanted > SOCKETS {
            return Err(ErrorCode::NewSocketLimit);
        }
        if wanted > self.sockets {
            self.reservation.try_grow(SOCKET_BYTES).map_err(|_| ErrorCode::NewSocketLimit)?;
            self.sockets = wanted;
        }
        Ok(())
    }
}

type Store<'a> = StoreContextMut<'a, Host>;

/// Puts the bound before WASI's own. Shadowing must be allowed.
pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?.func_wrap(
        "create-tcp-socket",
        |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
            let host = store.data_mut();
            Ok((match one_more(host) {
                Ok(()) => to_result(host.sockets().create_tcp_socket(family))?,
                Err(refusal) => Err(refusal),
            },))
        },
    )?;
    linker.instance("wasi:sockets/udp-create-socket@0.2.12")?.func_wrap_async(
        "create-udp-socket",
        |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                let host = store.data_mut();
                Ok((match one_more(host) {
                    Ok(()) => to_result(host.sockets().create_udp_socket(family).await)?,
                    Err(refusal) => Err(refusal),
                },))
            })
        },
    )
}

fn one_more(host: &mut Host) -> Result<(), ErrorCode> {
    let sockets = host.granted_sockets().clone();
    // Where there is no grant, WASI's own says so.
    if sockets.are_granted() { sockets.drawn().one_more(host.ctx().table) } else { Ok(()) }
}

fn to_result<T>(created: SocketResult<Resource<T>>) -> wasmtime::Result<Result<Resource<T>, ErrorCode>> {
    created.map_or_else(|error| error.downcast().map(Err), |socket| Ok(Ok(socket)))
}
