//! A stage: the namespace of one test, a registry, and the plugins that the test applies there.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use samovar_crds::WasmPlugin;

use crate::{Cluster, Registry};

/// `add(a, b) -> a + b`.
pub const ADD: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;
/// The same name, another answer.
pub const MULTIPLY: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.mul (local.get 0) (local.get 1))))"#;

/// The common part of the stages of the apiserver and the cluster tests, which add their agents.
pub struct Stage {
    /// The test's namespace.
    pub cluster: Cluster,
    /// The registry that the test pushes to.
    pub registry: Registry,
    /// A part of the spec of each plugin, in YAML's flow style.
    pub spec: String,
    /// The deadline of a condition.
    pub soon: Duration,
}

impl Stage {
    /// Pushes a module in the text format; returns its reference.
    pub async fn push(&self, tag: &str, wat: &str) -> Result<String> {
        self.push_wasm(tag, &wat::parse_str(wat)?).await
    }

    /// Pushes the bytes of a module; returns its reference.
    pub async fn push_wasm(&self, tag: &str, wasm: &[u8]) -> Result<String> {
        self.registry.push(&self.repository(), tag, wasm).await
    }

    /// The reference of a tag in the test's repository.
    pub fn image(&self, tag: &str) -> String {
        format!("{}/{}:{tag}", self.registry.address(), self.repository())
    }

    fn repository(&self) -> String {
        format!("{}/plugin", self.cluster.namespace)
    }

    /// Applies a plugin; `more` is more of its spec, in YAML's flow style.
    pub async fn apply(&self, name: &str, image: &str, more: &str) -> Result<()> {
        let image = format!("image: '{image}'");
        let parts = [image.as_str(), &self.spec, more].into_iter().filter(|part| !part.is_empty());
        let spec = parts.collect::<Vec<_>>().join(", ");
        let yaml = format!(
            "{{apiVersion: samovar.dev/v1alpha1, kind: WasmPlugin, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
        );
        self.cluster.apply(&yaml).await.map(drop)
    }

    /// Waits until the plugin's Ready condition has this status and reason for the newest spec.
    pub async fn ready(&self, name: &str, status: &str, reason: &str) -> Result<WasmPlugin> {
        let is_so = |plugin: &WasmPlugin| {
            let observed = plugin.status.as_ref().and_then(|status| status.observed_generation);
            observed == plugin.metadata.generation
                && condition(plugin, "Ready")
                    .is_some_and(|ready| ready.status == status && ready.reason == reason)
        };
        self.cluster.wait_for(name, self.soon, is_so).await
    }

    /// Waits until the newest spec is ready on all its nodes.
    pub async fn all_ready(&self, name: &str) -> Result<WasmPlugin> {
        self.ready(name, "True", "AllNodesReady").await
    }

    /// Waits until the newest revision is wanted on `desired` nodes and ready on `ready` of them.
    pub async fn on_nodes(
        &self,
        name: &str,
        ready: i32,
        desired: i32,
        within: Duration,
    ) -> Result<WasmPlugin> {
        let is_so = |plugin: &WasmPlugin| {
            let nodes = plugin.status.as_ref().and_then(|status| status.nodes.as_ref());
            nodes.is_some_and(|nodes| (nodes.ready, nodes.desired) == (ready, desired))
        };
        self.cluster.wait_for(name, within, is_so).await
    }
}

/// The condition of this type in a plugin's status.
pub fn condition<'a>(plugin: &'a WasmPlugin, type_: &str) -> Option<&'a Condition> {
    plugin.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// The message of a plugin's Ready condition.
pub fn message(plugin: &WasmPlugin) -> &str {
    condition(plugin, "Ready").map(|ready| ready.message.as_str()).unwrap_or_default()
}
