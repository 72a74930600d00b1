//! The limit of sockets of an instance. wasmtime would open as many as the guest asks for, each a file of this process.

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    p2::{
        SocketResult, TcpSocket, UdpSocket,
        bindings::sockets::{
            network::{ErrorCode, IpAddressFamily},
            tcp_create_socket::Host as _,
            udp_create_socket::Host as _,
        },
    },
    sockets::WasiSocketsCtxView,
};

use super::NetworkView;
use crate::memory::budget::Reservation;

/// The most open sockets of an instance.
const SOCKETS: u64 = 32;
/// The bytes that are reserved for each: its buffers here and in the kernel.
const SOCKET_BYTES: u64 = 256 << 10;

/// The reservation for the sockets of one instance: for as many as were ever open at once.
pub(super) struct SocketReservation {
    reservation: Reservation,
    reserved: u64,
}

impl SocketReservation {
    pub(super) fn new(reservation: Reservation) -> Self {
        Self { reservation, reserved: 0 }
    }

    /// Reserves memory for one more socket than are in the table.
    fn try_grow(&mut self, table: &mut ResourceTable) -> Result<(), ErrorCode> {
        let open =
            table.iter_mut().filter(|entry| entry.is::<TcpSocket>() || entry.is::<UdpSocket>()).count();
        let wanted = open as u64 + 1;
        if wanted > SOCKETS {
            return Err(ErrorCode::NewSocketLimit);
        }
        if wanted > self.reserved {
            self.reservation.try_grow(SOCKET_BYTES).map_err(|_| ErrorCode::NewSocketLimit)?;
            self.reserved = wanted;
        }
        Ok(())
    }
}

/// Replaces wasmtime's functions that create sockets by limited ones. The linker must allow shadowing.
pub(super) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> NetworkView<'_>,
) -> wasmtime::Result<()> {
    linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?.func_wrap(
        "create-tcp-socket",
        move |mut store: StoreContextMut<'_, T>, (family,): (IpAddressFamily,)| {
            let mut network = view(store.data_mut());
            Ok((match reserve_socket(&mut network) {
                Ok(()) => to_result(wasi(network).create_tcp_socket(family))?,
                Err(refusal) => Err(refusal),
            },))
        },
    )?;
    linker.instance("wasi:sockets/udp-create-socket@0.2.12")?.func_wrap_async(
        "create-udp-socket",
        move |mut store: StoreContextMut<'_, T>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                let mut network = view(store.data_mut());
                Ok((match reserve_socket(&mut network) {
                    Ok(()) => to_result(wasi(network).create_udp_socket(family).await)?,
                    Err(refusal) => Err(refusal),
                },))
            })
        },
    )
}

fn reserve_socket(NetworkView { sockets, wasi }: &mut NetworkView<'_>) -> Result<(), ErrorCode> {
    // Without a grant wasmtime refuses the socket.
    if sockets.are_granted() { sockets.reservation().try_grow(wasi.table) } else { Ok(()) }
}

fn wasi(NetworkView { wasi, .. }: NetworkView<'_>) -> WasiSocketsCtxView<'_> {
    WasiSocketsCtxView { ctx: wasi.ctx.sockets(), table: wasi.table }
}

fn to_result<T>(created: SocketResult<Resource<T>>) -> wasmtime::Result<Result<Resource<T>, ErrorCode>> {
    created.map_or_else(|error| error.downcast().map(Err), |socket| Ok(Ok(socket)))
}
