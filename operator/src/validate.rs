//! Validating: what one object alone can show to be wrong, and the CRD's own rules did not catch.

use samovar_crds::WasmPlugin;
use samovar_registry::Reference;

/// What is wrong with a spec, so that a person can mend it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {why}")]
pub(crate) struct Invalid {
    field: &'static str,
    why: String,
}

/// A spec that can be acted on.
#[derive(Debug)]
pub(crate) struct Valid {
    /// The image as the spec names it.
    pub(crate) image: Reference,
}

pub(crate) fn validate(plugin: &WasmPlugin) -> Result<Valid, Invalid> {
    let image =
        plugin.spec.template.image.parse().map_err(|error: samovar_registry::Error| Invalid {
            field: "spec.image",
            why: error.to_string(),
        })?;
    // An API server whose CRD is older lets through what this one's rules refuse.
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
    fn an_image_that_is_no_reference_is_refused_with_the_form_to_write() {
        let refusal = refusal(&serde_json::json!({ "image": "Not An Image" })).unwrap();
        assert!(refusal.starts_with("spec.image: `Not An Image` is not an image reference"), "{refusal}");
    }

    #[test]
    fn what_an_older_crd_let_through_is_refused_all_the_same() {
        assert_eq!(refusal(&serde_json::json!({ "image": "text:1" })), None);
        assert!(
            refusal(&serde_json::json!({ "image": "text:1", "replicas": -1 })).unwrap().contains("replicas")
        );
    }
}
