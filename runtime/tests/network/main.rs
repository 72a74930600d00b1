//! The network of guests: the hosts that they reach, and those that they do not.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

#[path = "../support/mod.rs"]
mod support;

mod forbidden;
mod granting;
mod names;
mod requests;
mod sockets;
mod upstream;

use std::time::Duration;

use samovar_runtime::{
    Artifact, CallError, EngineOptions, Grants, Instances, Limits, LoadError, NetworkGrant, NetworkOptions,
    Plugin, PluginSpec,
};
use serde_json::{Value, json};
use support::{Node, call, guest};

const GUEST: &str = "tests/guests/outgoing/outgoing.wasm";

/// A node, and the compiled guest that connects to hosts.
struct Bed {
    node: Node,
    artifact: Artifact,
}

impl Bed {
    async fn new(network: NetworkOptions) -> Self {
        let node = Node::new(EngineOptions { instances: 40, network, ..EngineOptions::default() });
        let artifact = node.artifact(guest(GUEST)).await;
        Self { node, artifact }
    }

    /// Loads the guest with a grant of these hosts.
    async fn load(&self, network: Option<&[&str]>) -> Result<Plugin, LoadError> {
        let hosts = |hosts: &[&str]| hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>();
        let network = network.map(|network| NetworkGrant::new(&hosts(network)).unwrap());
        self.load_within(network, Duration::from_secs(30)).await
    }

    async fn load_within(
        &self,
        network: Option<NetworkGrant>,
        timeout: Duration,
    ) -> Result<Plugin, LoadError> {
        let spec = PluginSpec {
            limits: Limits { timeout, ..Limits::default() },
            instances: Instances::default(),
            grants: Grants { network, ..Grants::default() },
            ..support::spec()
        };
        Plugin::load(&self.node.engine, &self.artifact, spec).await
    }

    async fn allowing(&self, hosts: &[&str]) -> Plugin {
        self.load(Some(hosts)).await.unwrap()
    }
}

/// The guest's answer, or its own error.
async fn ask(plugin: &Plugin, function: &str, arguments: Value) -> Result<Value, String> {
    match call(plugin, function, arguments.to_string()).await {
        Ok(answer) => Ok(serde_json::from_slice(&answer.body).unwrap()),
        Err(CallError::GuestError(why)) => Err(why),
        Err(other) => panic!("{function}{arguments}: {other}"),
    }
}

async fn fetch(plugin: &Plugin, authority: &str) -> Result<Value, String> {
    ask(plugin, "fetch", json!(["http", authority, "/"])).await
}

/// Bytes in the form of JSON: base64.
fn bytes(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn text(bytes: &Value) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(bytes.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}
