//! Spellings of addresses that no guest may reach: none of them connects.

use std::net::{IpAddr, Ipv4Addr};

use samovar_runtime::{NetworkOptions, Plugin};
use serde_json::json;

use crate::{
    Bed, ask, bytes, fetch,
    names::{NameServer, Records},
    text,
    upstream::{self, Upstream},
};

/// The widest policy that names no closed address.
const WIDE: [&str; 6] =
    ["0.0.0.0/0:*", "[::/0]:*", "*.example:*", "localhost:*", "*.localhost:*", "localhost.localdomain:*"];

/// Hosts as they may appear in a URI. Each is this machine, or one near it.
const SPELLINGS: &[&str] = &[
    "127.0.0.1",
    "127.1.2.3",
    "127.0.0.1.",
    "127.0.0.1..",
    "0.0.0.0",
    "0",
    "127.1",
    "127.0.1",
    "2130706433",
    "2130706433.",
    "0x7f000001",
    "0x7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "127.0.0.0x1",
    "0177.0.0.1",
    "017700000001",
    "0177.0.0.01",
    "0177.1",
    "127.000.000.001",
    "00127.0.0.1",
    "127.0.0.1e0",
    "127.0.0.256",
    "127.0.0.-1",
    "4294967297",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "localhost.localdomain",
    "localhost.example",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::0001]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "[::0.0.0.1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::ffff:0.0.0.0]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[::1%25lo]",
    "[::1%251]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[ff02::1]",
    "[::1",
    "::1",
    "[127.0.0.1]",
    "[[::1]]",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.170.2",
    "169.254.1.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "10.0.0.1",
    "10.96.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[2001:db8::1]",
    "user@127.0.0.1",
    "a.example@127.0.0.1",
    "a.example:80@127.0.0.1",
    "127.0.0.1#@a.example",
    "127.0.0.1?@a.example",
    "127.0.0.1\\@a.example",
    "@127.0.0.1",
    "loc%61lhost",
    "127.0.0.1%00.a.example",
    "127.0.0.1%2f.a.example",
    "%31%32%37.0.0.1",
    "１２７.０.０.１",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "ｌｏｃａｌｈｏｓｔ",
    "127.0.0.1 ",
    " 127.0.0.1",
    "127.0.0.1\t",
    "127.0.0.1\r\n",
    "127.0.0.1\0",
    "xn--127-0-0-1-.example@127.0.0.1",
    "127.0.0.1,a.example",
    "127.0.0.1;a.example",
    "",
];

/// The names of the test's name server, with addresses that no guest may reach.
const NAMES: &[(&str, &str)] = &[
    ("v4.example", "127.0.0.1"),
    ("v4-other.example", "127.1.2.3"),
    ("zero.example", "0.0.0.0"),
    ("v6.example", "::1"),
    ("any.example", "::"),
    ("mapped.example", "::ffff:127.0.0.1"),
    ("compatible.example", "::127.0.0.1"),
    ("nat64.example", "64:ff9b::7f00:1"),
    ("six-to-four.example", "2002:7f00:1::1"),
    ("teredo.example", "2001:0:7f00:1::1"),
    ("metadata.example", "169.254.169.254"),
    ("metadata-v6.example", "fd00:ec2::254"),
    ("private.example", "10.0.0.1"),
    ("link.example", "fe80::1"),
    ("unique.example", "fd12::1"),
    ("cluster.example", "8.8.8.8"),
];

async fn name_server() -> NameServer {
    let addresses = |text: &str| Records::Addresses(vec![text.parse().unwrap()]);
    let mut zone: Vec<_> = NAMES.iter().map(|(name, address)| (*name, addresses(address))).collect();
    zone.extend([
        ("alias.example", Records::Alias("v4.example")),
        ("xn--bcher-kva.example", addresses("127.0.0.1")),
        ("localhost", addresses("127.0.0.1")),
        ("127.0.0.1.example", addresses("127.0.0.1")),
    ]);
    NameServer::start(&zone).await
}

fn network(names: &NameServer) -> NetworkOptions {
    // A cluster's own range may consist of public addresses.
    NetworkOptions { closed: vec!["8.8.8.0/24".parse().unwrap()], name_servers: vec![names.address] }
}

/// True if an error is a refusal, before anything was sent, rather than a failed connection.
fn is_refusal(why: &str) -> bool {
    let refusals = [
        "HttpRequestDenied",
        "DestinationIpProhibited",
        "HttpRequestUriInvalid",
        "DnsError",
        "no authority",
        "access-denied",
        "invalid-argument",
        "name-unresolvable",
        "is no address",
        "remote-unreachable",
    ];
    refusals.iter().any(|refusal| why.contains(refusal))
}

async fn sink() -> Upstream {
    Upstream::start(&["127.0.0.1", "127.1.2.3", "::1"], upstream::echo).await
}

/// Checks that the sink counts: a guest that is allowed its addresses reaches each of them.
async fn allowed_reach(bed: &Bed, sink: &Upstream) {
    let before = sink.count();
    let plugin = bed.allowing(&["127.0.0.0/8:*", "[::1]:*"]).await;
    for host in ["127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]"] {
        fetch(&plugin, &format!("{host}:{}", sink.port)).await.unwrap();
    }
    assert_eq!(sink.count(), before + 4);
}

#[tokio::test]
async fn no_spelling_of_an_address_reaches_a_host_outside_the_policy() {
    let (names, sink) = (name_server().await, sink().await);
    let bed = Bed::new(network(&names)).await;
    let plugin = bed.allowing(&WIDE).await;
    let others =
        ["alias.example", "ALIAS.example.", "BÜCHER.example", "xn--bcher-kva.example", "127.0.0.1.example"];
    let named = NAMES.iter().map(|(name, _)| *name);
    let mut tried = 0;
    for host in SPELLINGS.iter().copied().chain(named).chain(others) {
        for authority in [format!("{host}:{}", sink.port), host.to_owned()] {
            for scheme in ["http", "https"] {
                let why = ask(&plugin, "fetch", json!([scheme, authority, "/"])).await.expect_err(&authority);
                assert!(is_refusal(&why), "{authority:?}: {why}");
                tried += 1;
            }
        }
    }
    assert_eq!(sink.count(), 0);
    println!("{} hosts, {tried} requests", SPELLINGS.len() + NAMES.len() + others.len());
    allowed_reach(&bed, &sink).await;
}

#[tokio::test]
async fn no_socket_reaches_a_host_outside_the_policy_by_address_or_name() {
    let (names, sink) = (name_server().await, sink().await);
    let bed = Bed::new(network(&names)).await;
    let plugin = bed.allowing(&WIDE).await;
    let (datagrams, counted, _serving) = upstream::shout_datagrams(Ipv4Addr::LOCALHOST.into()).await;
    for host in SPELLINGS {
        let bare = host.trim_matches(['[', ']']);
        for (function, port) in
            [("connect", sink.port), ("connect-name", sink.port), ("datagram", datagrams.port())]
        {
            let why = ask(&plugin, function, json!([bare, port, bytes("x")])).await.expect_err(host);
            assert!(is_refusal(&why), "{function} {host:?}: {why}");
        }
    }
    for (name, _) in NAMES {
        let why = ask(&plugin, "look-up", json!([name])).await.expect_err(name);
        assert!(why.contains("access-denied"), "{name}: {why}");
    }
    assert_eq!((sink.count(), *counted.borrow()), (0, 0));
    allowed_reach(&bed, &sink).await;
}

#[tokio::test]
async fn a_name_that_is_not_allowed_is_never_queried() {
    let names = name_server().await;
    let bed = Bed::new(network(&names)).await;
    let plugin = bed.allowing(&["*.allowed.example:*"]).await;
    for name in
        ["secret.v4.example", "allowed.example", "evilallowed.example", "a.allowed.example.evil.example"]
    {
        fetch(&plugin, name).await.unwrap_err();
        ask(&plugin, "look-up", json!([name])).await.unwrap_err();
    }
    assert_eq!(*names.asked.lock().unwrap(), Vec::<String>::new());
    fetch(&plugin, "a.allowed.example").await.unwrap_err();
    assert!(
        names.asked.lock().unwrap().iter().all(|name| name == "a.allowed.example"),
        "a search domain was queried"
    );
}

/// A name that has another address at each query. The connection goes to the address that was checked.
#[tokio::test]
async fn a_rebinding_name_is_connected_at_its_checked_address() {
    let turns: [IpAddr; 2] = ["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()];
    let names = NameServer::start(&[("rebind.example", Records::Turns(turns.to_vec()))]).await;
    // It responds with the address at which it was reached.
    let upstream = Upstream::start(&["127.0.0.2", "127.0.0.1"], |mut stream| async move {
        upstream::head(&mut stream).await;
        let reached = stream.local_addr().unwrap().ip().to_string();
        upstream::answer(stream, &reached).await;
    })
    .await;
    let bed = Bed::new(network(&names)).await;
    let plugin = bed.allowing(&["rebind.example:*", "127.0.0.2:*"]).await;
    let mut reached = 0;
    for _ in 0..20 {
        match fetch(&plugin, &format!("rebind.example:{}", upstream.port)).await {
            Ok(response) => {
                assert_eq!(text(&response["body"]), "127.0.0.2");
                reached += 1;
            }
            Err(why) => assert!(why.contains("DestinationIpProhibited"), "{why}"),
        }
    }
    assert_eq!((reached, upstream.count()), (10, 10));
    // An address that the name has had is not allowed on that account.
    for _ in 0..4 {
        let _ = ask(&plugin, "look-up", json!(["rebind.example"])).await;
        let why = ask(&plugin, "connect", json!(["127.0.0.1", upstream.port, ""])).await.unwrap_err();
        assert!(why.contains("access-denied"), "{why}");
    }
    assert_eq!(upstream.count(), 10);
}

async fn redirect(plugin: &Plugin, through: &Upstream, to: &str) -> Result<serde_json::Value, String> {
    ask(plugin, "fetch", json!(["http", format!("127.0.0.2:{}", through.port), format!("/{to}")])).await
}

#[tokio::test]
async fn a_redirect_is_checked_like_the_first_request() {
    let (names, sink) = (name_server().await, sink().await);
    // It redirects to the host in the path.
    let through = Upstream::start(&["127.0.0.2"], |mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        let head = upstream::head(&mut stream).await;
        let to = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let response = format!("HTTP/1.1 302 Found\r\nlocation: http://{to}/\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(response.as_bytes()).await;
    })
    .await;
    let bed = Bed::new(network(&names)).await;
    let through_port = format!("127.0.0.2:{}", through.port);
    let plugin = bed.allowing(&[&WIDE[..], &[&through_port]].concat()).await;
    let hosts = [
        "127.0.0.1",
        "[::1]",
        "[::ffff:7f00:1]",
        "2130706433",
        "0x7f.1",
        "localhost",
        "v4.example",
        "u@127.0.0.1",
    ];
    for host in hosts {
        let why = redirect(&plugin, &through, &format!("{host}:{}", sink.port)).await.unwrap_err();
        assert!(is_refusal(&why), "{host}: {why}");
    }
    assert_eq!((sink.count(), through.count()), (0, hosts.len()));
    let both = bed.allowing(&[&through_port, "127.0.0.1:*"]).await;
    let followed = redirect(&both, &through, &format!("127.0.0.1:{}", sink.port)).await.unwrap();
    assert!(text(&followed["body"]).contains("host: 127.0.0.1"), "{followed}");
    assert_eq!(sink.count(), 1);
}
