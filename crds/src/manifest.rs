//! Manifests as people write them: what no schema knows is said, not swallowed.

use kube::CustomResourceExt;
use serde_json::Value;

use crate::WasmPlugin;

/// Why a manifest is no plugin. One line a mistake.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ManifestError(pub Vec<String>);

impl WasmPlugin {
    /// Reads a plugin from a manifest as strictly as `kubectl apply` does: unknown fields, wrong types and
    /// the CRD's own rules are all refused, with a sentence each.
    pub fn from_manifest(manifest: &Value) -> Result<Self, ManifestError> {
        let schema = serde_json::to_value(
            Self::crd().spec.versions.first().and_then(|version| version.schema.as_ref()),
        )
        .unwrap_or_default();
        let mut unknown = Vec::new();
        unknown_fields("", &schema["openAPIV3Schema"], manifest, &mut unknown);
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
        let mut seen = std::collections::HashSet::new();
        match plugin.spec.template.functions.iter().find(|function| !seen.insert(&function.name)) {
            Some(twice) => Err(ManifestError(vec![format!("spec.functions: `{}` comes twice", twice.name)])),
            None => Ok(plugin),
        }
    }
}

fn unknown_fields(path: &str, schema: &Value, value: &Value, found: &mut Vec<String>) {
    match (value, schema["properties"].as_object()) {
        (Value::Object(fields), Some(properties)) => {
            for (name, value) in fields {
                // A resource's own metadata is the API server's to check: the CRD's schema says nothing of it.
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
    fn wrong_types_rules_and_doubles_are_refused() {
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
}
