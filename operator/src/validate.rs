//! Validates a spec by itself: the image reference, and the CRD's rules, which an older CRD may lack.

use samovar_crds::WasmPlugin;
use samovar_registry::Reference;

/// A mistake in a spec, and the field to fix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {why}")]
pub(crate) struct Invalid {
    field: &'static str,
    why: String,
}

/// The parsed parts of a valid spec.
#[derive(Debug)]
pub(crate) struct Valid {
    /// The spec's image.
    pub(crate) image: Reference,
}

pub(crate) fn validate(plugin: &WasmPlugin) -> Result<Valid, Invalid> {
    let image =
        plugin.spec.template.image.parse().map_err(|error: samovar_registry::Error| Invalid {
            field: "spec.image",
            why: error.to_string(),
        })?;
    // An API server with an older CRD accepts specs that the current rules refuse.
    plugin.validate_cel().map_err(|errors| {
        let first = errors.iter().next();
        Invalid {
            field: "spec",
            why: first.map(|error| format!("{}: {}", error.field_path, error.message)).unwrap_or_default(),
        }
    })?;
    Ok(Valid { image })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(spec: &serde_json::Value) -> Option<String> {
        let plugin: WasmPlugin = serde_json::from_value(serde_json::json!({
            "apiVersion": samovar_crds::API_VERSION, "kind": "WasmPlugin", "metadata": { "name": "text" }, "spec": spec
        }))
        .unwrap();
        validate(&plugin).err().map(|invalid| invalid.to_string())
    }

    #[test]
    fn an_invalid_image_reference_is_refused_with_the_expected_form() {
        let refusal = refusal(&serde_json::json!({ "image": "Not An Image" })).unwrap();
        assert!(refusal.starts_with("spec.image: `Not An Image` is not an image reference"), "{refusal}");
    }

    #[test]
    fn a_spec_that_an_older_crd_accepted_is_refused() {
        assert_eq!(refusal(&serde_json::json!({ "image": "text:1" })), None);
        assert!(
            refusal(&serde_json::json!({ "image": "text:1", "replicas": -1 })).unwrap().contains("replicas")
        );
    }
}
