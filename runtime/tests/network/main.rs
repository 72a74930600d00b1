//! The network as guests have it: what they reach, and what they do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up says where")]

#[path = "../loading/mod.rs"]
mod loading;

mod forbidden;
mod granting;
mod names;
mod requests;
mod sockets;
mod upstream;

use std::time::Duration;

use loading::{compile_on, guest};
use samovar_runtime::{
    Artifact, Call, CallError, Engine, EngineOptions, Format, Grants, Limits, LoadError, NetworkGrant,
    NetworkOptions, Plugin, PluginSpec,
};
use serde_json::{Value, json};

const GUEST: &str = "tests/guests/outgoing/outgoing.wasm";

/// An engine, and on it the guest that tries to reach hosts.
struct Bed {
    engine: Engine,
    artifact: Artifact,
}

impl Bed {
    async fn new(network: NetworkOptions) -> Self {
        let options = EngineOptions { instances: 40, network, ..EngineOptions::default() };
        let engine = Engine::new(&options).unwrap();
        let artifact = compile_on(&engine, guest(GUEST)).await;
        Self { engine, artifact }
    }

    /// The guest with that grant.
    async fn load(&self, network: Option<&[&str]>) -> Result<Plugin, LoadError> {
        let hosts = |hosts: &[&str]| hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>();
        let network = network.map(|network| NetworkGrant::new(&hosts(network)).unwrap());
        let spec = PluginSpec {
            name: "test/outgoing".to_owned(),
            limits: Limits { timeout: Duration::from_secs(30), ..Limits::default() },
            grants: Grants { network, ..Grants::default() },
            ..PluginSpec::default()
        };
        Plugin::load(&self.engine, &self.artifact, spec).await
    }

    async fn allowing(&self, hosts: &[&str]) -> Plugin {
        self.load(Some(hosts)).await.unwrap()
    }
}

/// What the guest has to say: what it got, or its own name for why not.
async fn ask(plugin: &Plugin, function: &str, arguments: Value) -> Result<Value, String> {
    let call = Call { body: arguments.to_string().into(), format: Format::Json, answer_bytes: false };
    match plugin.call(plugin.function(function).unwrap(), call).await {
        Ok(answer) => Ok(serde_json::from_slice(&answer.body).unwrap()),
        Err(CallError::GuestError(why)) => Err(why),
        Err(other) => panic!("{function}{arguments}: {other}"),
    }
}

async fn fetch(plugin: &Plugin, authority: &str) -> Result<Value, String> {
    ask(plugin, "fetch", json!(["http", authority, "/"])).await
}

/// Bytes as JSON has them.
fn bytes(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn text(bytes: &Value) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(bytes.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}
