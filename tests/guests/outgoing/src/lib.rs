//! Connects to hosts over wasi:http and wasi:sockets, and returns the results.

mod http;
mod sockets;

wit_bindgen::generate!({ world: "outgoing", path: "wit" });

use exports::test::outgoing::network::{Guest, Response};

struct Outgoing;

impl Guest for Outgoing {
    fn fetch(scheme: String, authority: String, path: String) -> Result<Response, String> {
        http::following(&scheme, &authority, &path)
    }

    fn send(method: String, authority: String, body: Vec<u8>) -> Result<Response, String> {
        http::send(&method, &authority, &body)
    }

    fn fetch_within(authority: String, milliseconds: u32) -> Result<Response, String> {
        http::within(&authority, milliseconds)
    }

    fn storm(authority: String, count: u32) -> (u32, Vec<String>) {
        http::storm(&authority, count)
    }

    fn look_up(name: String) -> Result<Vec<String>, String> {
        let found = sockets::look_up(&name)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    fn connect(address: String, port: u16, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        sockets::connect(sockets::address(&address)?, port, &bytes)
    }

    fn connect_name(name: String, port: u16, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let found = sockets::look_up(&name)?;
        sockets::connect(*found.first().ok_or("it has no address")?, port, &bytes)
    }

    fn datagram(address: String, port: u16, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        sockets::datagram(sockets::address(&address)?, port, &bytes)
    }

    fn listen(address: String, port: u16) -> Result<(), String> {
        sockets::listen(sockets::address(&address)?, port)
    }

    fn hoard(count: u32) -> (u32, Option<String>) {
        sockets::hoard(count)
    }

    fn bind_datagrams(address: String, port: u16) -> Result<(), String> {
        sockets::bind_datagrams(sockets::address(&address)?, port)
    }
}

export!(Outgoing);
