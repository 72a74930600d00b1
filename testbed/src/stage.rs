//! Plugins as a person sees them: applied, waited for, asked why.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use samovar_crds::WasmPlugin;

use crate::Cluster;

/// `add(a, b) -> a + b`.
pub const ADD: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;
/// The same name, another answer.
pub const MULTIPLY: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.mul (local.get 0) (local.get 1))))"#;

impl Cluster {
    /// Applies a plugin; `more` is more of its spec, in YAML's flow style.
    pub async fn apply_plugin(&self, name: &str, image: &str, more: &str) -> Result<()> {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let yaml = format!(
            "{{apiVersion: samovar.dev/v1alpha1, kind: WasmPlugin, metadata: {{name: {name}}}, \
             spec: {{image: '{image}'{more}}}}}"
        );
        self.apply(&yaml).await.map(drop)
    }

    /// Waits until the plugin's Ready condition says this of the newest spec.
    pub async fn plugin_says(
        &self,
        name: &str,
        status: &str,
        reason: &str,
        within: Duration,
    ) -> Result<WasmPlugin> {
        let says = |plugin: &WasmPlugin| {
            let observed = plugin.status.as_ref().and_then(|status| status.observed_generation);
            observed == plugin.metadata.generation
                && condition(plugin, "Ready")
                    .is_some_and(|ready| ready.status == status && ready.reason == reason)
        };
        self.wait_for(name, within, says).await
    }
}

/// A plugin's condition of that type.
pub fn condition<'a>(plugin: &'a WasmPlugin, type_: &str) -> Option<&'a Condition> {
    plugin.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// The message of the plugin's Ready condition.
pub fn message(plugin: &WasmPlugin) -> &str {
    condition(plugin, "Ready").map(|ready| ready.message.as_str()).unwrap_or_default()
}
