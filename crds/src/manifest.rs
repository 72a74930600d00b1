//! Strict parsing of manifests: an unknown field is an error, and never ignored.

use std::{collections::HashSet, sync::LazyLock};

use kube::CustomResourceExt;
use serde_json::Value;

use crate::{PluginTemplate, WasmPlugin};

/// The mistakes in a manifest, one sentence for each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ManifestError(pub Vec<String>);

/// The OpenAPI schema of a `WasmPlugin`, as in its CRD.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let versions = WasmPlugin::crd().spec.versions;
    serde_json::to_value(versions.into_iter().next().and_then(|version| version.schema)).unwrap_or_default()
});

impl WasmPlugin {
    /// Parses a manifest as strictly as `kubectl apply` does. It refuses unknown fields, wrong types and violations of
    /// the CRD's validation rules, with a sentence for each.
    pub fn from_manifest(manifest: &Value) -> Result<Self, ManifestError> {
        let mut unknown = Vec::new();
        unknown_fields("", &SCHEMA["openAPIV3Schema"], manifest, &mut unknown);
        if !unknown.is_empty() {
            return Err(ManifestError(
                unknown.into_iter().map(|path| format!("unknown field `{path}`")).collect(),
            ));
        }
        let plugin: Self = serde_json::from_value(manifest.clone())
            .map_err(|error| ManifestError(vec![error.to_string()]))?;
        plugin.validate_cel().map_err(|errors| {
            ManifestError(
                errors.iter().map(|error| format!("{}: {}", error.field_path, error.message)).collect(),
            )
        })?;
        let duplicates = plugin.spec.template.duplicate_keys();
        if duplicates.is_empty() { Ok(plugin) } else { Err(ManifestError(duplicates)) }
    }
}

impl PluginTemplate {
    /// The keys that occur twice in a list of type map or set, where the API server accepts each key once.
    fn duplicate_keys(&self) -> Vec<String> {
        let policy = self.security_policy.clone().unwrap_or_default();
        let hosts = policy.network.unwrap_or_default().allowed_hosts;
        let lists: [(&str, Vec<&String>); 4] = [
            ("functions", self.functions.iter().map(|function| &function.name).collect()),
            ("securityPolicy.files", policy.files.iter().map(|file| &file.path).collect()),
            ("securityPolicy.env", policy.env.iter().map(|variable| &variable.name).collect()),
            ("securityPolicy.network.allowedHosts", hosts.iter().collect()),
        ];
        let duplicates = lists.into_iter().filter_map(|(field, keys)| {
            let mut seen = HashSet::new();
            let duplicate = keys.into_iter().find(|key| !seen.insert(*key))?;
            Some(format!("spec.{field}: `{duplicate}` is listed twice"))
        });
        duplicates.collect()
    }
}

fn unknown_fields(path: &str, schema: &Value, value: &Value, found: &mut Vec<String>) {
    match (value, schema["properties"].as_object()) {
        (Value::Object(fields), Some(properties)) => {
            for (name, value) in fields {
                // The CRD's schema does not describe metadata, which the API server validates itself.
                if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match properties.get(name) {
                    Some(schema) => unknown_fields(&path, schema, value, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(items), _) => {
            for (at, item) in items.iter().enumerate() {
                unknown_fields(&format!("{path}[{at}]"), &schema["items"], item, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(spec: &Value) -> String {
        let manifest = json!({ "apiVersion": crate::API_VERSION, "kind": "WasmPlugin", "metadata": { "name": "text" }, "spec": spec });
        WasmPlugin::from_manifest(&manifest).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_path() {
        let refusal =
            refusal(&json!({ "image": "a", "limit": {}, "functions": [{ "name": "f", "exports": "g" }] }));
        assert_eq!(refusal, "unknown field `spec.functions[0].exports`; unknown field `spec.limit`");
    }

    #[test]
    fn wrong_types_broken_rules_and_duplicates_are_refused() {
        assert!(refusal(&json!({ "image": 7 })).contains("string"));
        assert!(refusal(&json!({ "image": "a", "limits": { "timeout": "0s" } })).contains("over 0s"));
        assert!(
            refusal(&json!({ "image": "a", "functions": [{ "name": "f" }, { "name": "f" }] }))
                .contains("twice")
        );
        assert!(
            refusal(&json!({ "image": "a", "type": "Http", "functions": [{ "name": "f" }] }))
                .contains("leave `functions` out")
        );
        assert!(
            refusal(&json!({ "image": "a", "functions": [{ "name": "f", "abi": "Http" }] }))
                .contains("set the plugin's `type: Http`")
        );
        assert_eq!(refusal(&json!({ "image": "a", "type": "Http" })), "");
        assert_eq!(refusal(&json!({ "image": "a", "nodeSelector": { "disk": "ssd" } })), "");
    }

    #[test]
    fn invalid_policies_are_refused_with_a_sentence() {
        let policy = |policy: Value| refusal(&json!({ "image": "a", "securityPolicy": policy }));
        let file = |file: Value| policy(json!({ "files": [file] }));
        let env = |variable: Value| policy(json!({ "env": [variable] }));
        let words = json!({ "name": "words" });
        for (refusal, says) in [
            (file(json!({ "path": "/a" })), "exactly one of configMap, secret and scratch"),
            (file(json!({ "path": "/a", "configMap": words, "secret": words })), "exactly one of"),
            (file(json!({ "path": "a", "configMap": words })), "absolute path"),
            (file(json!({ "path": "/a/../b", "configMap": words })), "absolute path"),
            (file(json!({ "path": "/a/", "configMap": words })), "absolute path"),
            (file(json!({ "path": "/a", "configMap": words, "readOnly": false })), "readOnly must be true"),
            (file(json!({ "path": "/a", "configMap": { "name": "Words" } })), "object's name"),
            (file(json!({ "path": "/a", "scratch": { "sizeLimit": "0" } })), "over zero"),
            (env(json!({ "name": "1A", "value": "b" })), "environment variable's name"),
            (env(json!({ "name": "SAMOVAR_CONFIG", "value": "b" })), "spec.config"),
            (env(json!({ "name": "A", "valueFrom": {} })), "exactly one of configMapKeyRef"),
            (
                env(
                    json!({ "name": "A", "value": "b", "valueFrom": { "secretKeyRef": { "name": "a", "key": "b" } } }),
                ),
                "mutually exclusive",
            ),
            (policy(json!({ "network": { "allowedHosts": ["https://example.com/"] } })), "a host is a name"),
            (policy(json!({ "env": [{ "name": "A" }, { "name": "A" }] })), "`A` is listed twice"),
            (
                policy(
                    json!({ "files": [{ "path": "/a/b", "configMap": words }, { "path": "/a", "configMap": words }] }),
                ),
                "inside another",
            ),
        ] {
            assert!(refusal.contains(says), "{says}: {refusal}");
        }
        let valid = json!({
            "network": { "allowedHosts": ["api.example.com:443", "*.example.com", "10.0.0.0/8", "[2001:db8::1]:80"] },
            "files": [
                { "path": "/words", "readOnly": true, "configMap": words },
                { "path": "/words-2", "secret": { "name": "words", "optional": true } },
                { "path": "/tmp", "readOnly": false, "scratch": { "sizeLimit": "16Mi" } },
            ],
            "env": [
                { "name": "LOCALE", "value": "en" },
                { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "api", "key": "token" } } },
            ],
        });
        assert_eq!(policy(valid), "");
    }
}
