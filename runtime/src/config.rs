//! A plugin's config, in each form in which a guest gets it.

use serde_json::{Map, Value};
use wasmtime_wasi_config::WasiConfigVariables;

/// The `spec.config` of one revision.
pub(crate) struct Config {
    json: Option<String>,
    variables: WasiConfigVariables,
}

/// The environment variable that holds it for core modules.
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

    /// The whole of it, where there is any.
    pub(crate) fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }

    /// The values of its top level: strings as they are, others as JSON.
    pub(crate) fn variables(&self) -> &WasiConfigVariables {
        &self.variables
    }
}
