//! Loading a module that imports the network, with the grant and without.

use samovar_runtime::{Import, Inspection, LoadError, NetworkGrant, NetworkOptions};
use serde_json::json;

use crate::{
    Bed, ask, fetch,
    upstream::{self, Upstream},
};

#[tokio::test]
async fn a_module_that_makes_requests_is_refused_without_the_grant_that_it_names() {
    let bed = Bed::new(NetworkOptions::default()).await;
    match bed.load(None).await.err() {
        Some(LoadError::ImportNotGranted(why)) => {
            assert!(why.contains("wasi:http/outgoing-handler@0.2"), "{why}");
            assert!(why.contains("`securityPolicy.network`") && why.contains("`allowedHosts`"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_grant_of_no_host_loads_and_reaches_nothing() {
    let bed = Bed::new(NetworkOptions::default()).await;
    let upstream = Upstream::start(&["127.0.0.1"], upstream::echo).await;
    let plugin = bed.allowing(&[]).await;
    for host in [format!("127.0.0.1:{}", upstream.port), "example.com".to_owned(), "1.1.1.1".to_owned()] {
        let why = fetch(&plugin, &host).await.unwrap_err();
        assert!(why.contains("HttpRequestDenied") || why.contains("DestinationIpProhibited"), "{why}");
    }
    for (function, arguments) in [
        ("connect", json!(["127.0.0.1", upstream.port, ""])),
        ("datagram", json!(["127.0.0.1", upstream.port, ""])),
        ("look-up", json!(["example.com"])),
        ("look-up", json!(["127.0.0.1"])),
        ("listen", json!(["127.0.0.1", 0])),
    ] {
        let why = ask(&plugin, function, arguments).await.unwrap_err();
        assert!(why.contains("access-denied"), "{function}: {why}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn inspection_names_the_grant_that_is_needed() {
    let bed = Bed::new(NetworkOptions::default()).await;
    let imports = Inspection::of(&bed.artifact).imports;
    let of = |start: &str| -> &Import {
        imports
            .iter()
            .find(|import| import.name.starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {imports:?}"))
    };
    let outgoing = of("wasi:http/outgoing-handler@");
    assert_eq!((&*outgoing.grants, outgoing.required), (&["securityPolicy.network"][..], true));
    let sockets = of("wasi:sockets/tcp@");
    assert_eq!((&*sockets.grants, sockets.required), (&["securityPolicy.network"][..], false));
    assert!(imports.iter().all(|import| import.provided), "{imports:?}");
}

#[test]
fn a_host_that_cannot_be_allowed_is_named_with_the_reason() {
    let refused =
        NetworkGrant::new(&["example.com".to_owned(), "https://example.com/".to_owned()]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "`https://example.com/` is not a valid host pattern: it is a URL; remove the scheme and the path"
    );
}
