//! Sockets to allowed hosts, and to no others.

use std::net::Ipv4Addr;

use samovar_runtime::NetworkOptions;
use serde_json::json;

use crate::{
    Bed, ask, bytes,
    names::{NameServer, Records},
    text,
    upstream::{self, Upstream},
};

#[tokio::test]
async fn a_socket_reaches_only_allowed_addresses_and_ports() {
    let bed = Bed::new(NetworkOptions::default()).await;
    let upstream = Upstream::start(&["127.0.0.1"], upstream::shout).await;
    let other = Upstream::start(&["127.0.0.1"], upstream::shout).await;
    let plugin = bed.allowing(&[&format!("127.0.0.1:{}", upstream.port)]).await;
    let answer = ask(&plugin, "connect", json!(["127.0.0.1", upstream.port, bytes("hello")])).await.unwrap();
    assert_eq!(text(&answer), "HELLO");
    for (address, port) in
        [("127.0.0.1", other.port), ("127.0.0.2", upstream.port), ("0.0.0.0", upstream.port)]
    {
        let why = ask(&plugin, "connect", json!([address, port, ""])).await.unwrap_err();
        assert!(why.contains("access-denied") || why.contains("invalid-argument"), "{address}: {why}");
    }
    assert_eq!((upstream.count(), other.count()), (1, 0));
}

#[tokio::test]
async fn a_host_without_a_port_allows_no_sockets() {
    let bed = Bed::new(NetworkOptions::default()).await;
    let plugin = bed.allowing(&["127.0.0.1", "api.example"]).await;
    for (function, arguments) in [
        ("connect", json!(["127.0.0.1", 80, ""])),
        ("datagram", json!(["127.0.0.1", 80, ""])),
        ("look-up", json!(["api.example"])),
    ] {
        let why = ask(&plugin, function, arguments).await.unwrap_err();
        assert!(why.contains("access-denied"), "{function}: {why}");
    }
}

#[tokio::test]
async fn a_name_is_connected_at_the_addresses_of_its_lookup() {
    let loopback = Records::Addresses(vec![Ipv4Addr::LOCALHOST.into()]);
    let zone = [("db.example", loopback.clone()), ("other.example", loopback)];
    let names = NameServer::start(&zone).await;
    let bed =
        Bed::new(NetworkOptions { name_servers: vec![names.address], ..NetworkOptions::default() }).await;
    let upstream = Upstream::start(&["127.0.0.1"], upstream::shout).await;
    let port = upstream.port;
    let plugin = bed.allowing(&[&format!("db.example:{port}"), &format!("127.0.0.1:{port}")]).await;
    let found = ask(&plugin, "look-up", json!(["DB.example."])).await.unwrap();
    assert_eq!(found, json!(["127.0.0.1"]));
    let answer = ask(&plugin, "connect-name", json!(["db.example", port, bytes("hello")])).await.unwrap();
    assert_eq!(text(&answer), "HELLO");
    let why = ask(&plugin, "look-up", json!(["other.example"])).await.unwrap_err();
    assert!(why.contains("access-denied"), "{why}");
    let why = ask(&plugin, "connect-name", json!(["db.example", port - 1, ""])).await.unwrap_err();
    assert!(why.contains("access-denied"), "{why}");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn datagrams_reach_only_allowed_addresses_and_ports() {
    let bed = Bed::new(NetworkOptions::default()).await;
    let (allowed, counted, _serving) = upstream::shout_datagrams(Ipv4Addr::LOCALHOST.into()).await;
    let (other, uncounted, _serving) = upstream::shout_datagrams(Ipv4Addr::LOCALHOST.into()).await;
    let plugin = bed.allowing(&[&allowed.to_string()]).await;
    let answer =
        ask(&plugin, "datagram", json!(["127.0.0.1", allowed.port(), bytes("hello")])).await.unwrap();
    assert_eq!(text(&answer), "HELLO");
    let why = ask(&plugin, "datagram", json!(["127.0.0.1", other.port(), bytes("hello")])).await.unwrap_err();
    assert!(why.contains("access-denied"), "{why}");
    assert_eq!((*counted.borrow(), *uncounted.borrow()), (1, 0));
}

#[tokio::test]
async fn no_guest_listens_or_binds_a_port() {
    let bed = Bed::new(NetworkOptions::default()).await;
    let plugin = bed.allowing(&["127.0.0.0/8:*", "0.0.0.0/8:*"]).await;
    for (function, address, port) in [
        ("listen", "127.0.0.1", 0),
        ("listen", "0.0.0.0", 0),
        ("listen", "127.0.0.1", 18080),
        ("bind-datagrams", "127.0.0.1", 0),
        ("bind-datagrams", "0.0.0.0", 18080),
    ] {
        let why = ask(&plugin, function, json!([address, port])).await.unwrap_err();
        assert!(why.contains("access-denied"), "{function} {address} {port}: {why}");
    }
}

#[tokio::test]
async fn an_instance_has_at_most_32_sockets_and_their_memory_is_released() {
    let bed = Bed::new(NetworkOptions::default()).await;
    let plugin = bed.allowing(&["127.0.0.1:*"]).await;
    let before = bed.node.used();
    let hoarded = ask(&plugin, "hoard", json!([1000])).await.unwrap();
    assert_eq!(hoarded, json!([32, "new-socket-limit"]));
    let few = ask(&plugin, "hoard", json!([20])).await.unwrap();
    assert_eq!(few, json!([20, null]));
    assert!(bed.node.used() <= before);
}
