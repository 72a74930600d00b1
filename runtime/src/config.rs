//! A plugin's `spec.config`, in the forms that guests read: JSON, and `wasi:config` variables.

use serde_json::{Map, Value};
use wasmtime_wasi_config::WasiConfigVariables;

/// The `spec.config` of one revision.
pub(crate) struct Config {
    json: Option<String>,
    variables: WasiConfigVariables,
}

/// The environment variable that holds the JSON for core modules.
pub(crate) const VARIABLE: &str = "SAMOVAR_CONFIG";

impl Config {
    pub(crate) fn new(config: Option<Map<String, Value>>) -> Self {
        let Some(config) = config else {
            return Self { json: None, variables: WasiConfigVariables::new() };
        };
        let json = Value::Object(config.clone()).to_string();
        let text = |value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let variables = config.into_iter().map(|(key, value)| (key, text(value))).collect();
        Self { json: Some(json), variables }
    }

    /// The whole config as JSON; `None` if the plugin has none.
    pub(crate) fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }

    /// The values of the top level: strings verbatim, others as JSON.
    pub(crate) fn variables(&self) -> &WasiConfigVariables {
        &self.variables
    }
}
