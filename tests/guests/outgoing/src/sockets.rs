//! Sockets over wasi:sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wasip2::{
    io::streams::StreamError,
    sockets::{
        instance_network::instance_network,
        ip_name_lookup,
        network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress},
        tcp_create_socket::create_tcp_socket,
        udp::{OutgoingDatagram, UdpSocket},
        udp_create_socket::create_udp_socket,
    },
};

pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address"))
}

fn name(error: ErrorCode) -> String {
    error.name().to_owned()
}

fn family(address: IpAddr) -> IpAddressFamily {
    if address.is_ipv4() { IpAddressFamily::Ipv4 } else { IpAddressFamily::Ipv6 }
}

fn socket_address(address: IpAddr, port: u16) -> IpSocketAddress {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.segments();
            let address = (a, b, c, d, e, f, g, h);
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
    }
}

pub fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let stream = ip_name_lookup::resolve_addresses(&instance_network(), host).map_err(name)?;
    let mut found = Vec::new();
    loop {
        stream.subscribe().block();
        match stream.resolve_next_address().map_err(name)? {
            Some(IpAddress::Ipv4((a, b, c, d))) => found.push(Ipv4Addr::new(a, b, c, d).into()),
            Some(IpAddress::Ipv6((a, b, c, d, e, f, g, h))) => {
                found.push(Ipv6Addr::new(a, b, c, d, e, f, g, h).into());
            }
            None => return Ok(found),
        }
    }
}

pub fn connect(address: IpAddr, port: u16, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let socket = create_tcp_socket(family(address)).map_err(name)?;
    socket.start_connect(&instance_network(), socket_address(address, port)).map_err(name)?;
    socket.subscribe().block();
    let (input, output) = socket.finish_connect().map_err(name)?;
    output.blocking_write_and_flush(bytes).map_err(|error| format!("{error:?}"))?;
    let mut read = Vec::new();
    loop {
        match input.blocking_read(4096) {
            Ok(bytes) => read.extend(bytes),
            Err(StreamError::Closed) => return Ok(read),
            Err(error) => return Err(format!("{error:?}")),
        }
    }
}

fn bound(address: IpAddr, port: u16) -> Result<UdpSocket, String> {
    let socket = create_udp_socket(family(address)).map_err(name)?;
    socket.start_bind(&instance_network(), socket_address(address, port)).map_err(name)?;
    socket.finish_bind().map_err(name)?;
    Ok(socket)
}

pub fn datagram(address: IpAddr, port: u16, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = bound(any, 0)?;
    let (incoming, outgoing) = socket.stream(None).map_err(name)?;
    outgoing.subscribe().block();
    outgoing.check_send().map_err(name)?;
    let remote_address = Some(socket_address(address, port));
    outgoing.send(&[OutgoingDatagram { data: bytes.to_vec(), remote_address }]).map_err(name)?;
    // The next send reports the result of this one.
    outgoing.subscribe().block();
    outgoing.check_send().map_err(name)?;
    incoming.subscribe().block();
    let received = incoming.receive(1).map_err(name)?;
    Ok(received.into_iter().next().map(|datagram| datagram.data).unwrap_or_default())
}

pub fn listen(address: IpAddr, port: u16) -> Result<(), String> {
    let socket = create_tcp_socket(family(address)).map_err(name)?;
    socket.start_bind(&instance_network(), socket_address(address, port)).map_err(name)?;
    socket.finish_bind().map_err(name)?;
    socket.start_listen().map_err(name)?;
    socket.finish_listen().map_err(name)
}

pub fn bind_datagrams(address: IpAddr, port: u16) -> Result<(), String> {
    bound(address, port).map(drop)
}

pub fn hoard(count: u32) -> (u32, Option<String>) {
    let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
    for held in 0..count {
        let opened = if held % 2 == 0 {
            create_tcp_socket(IpAddressFamily::Ipv4).map(|socket| streams.push(socket))
        } else {
            create_udp_socket(IpAddressFamily::Ipv4).map(|socket| datagrams.push(socket))
        };
        if let Err(error) = opened {
            return (held, Some(name(error)));
        }
    }
    (count, None)
}
