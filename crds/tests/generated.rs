//! The generated CRDs: their schemas, and their validation rules.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up says where")]

use samovar_crds::{LoadStats, PluginAssignmentStatus, WasmPlugin, all};
use serde_json::{Value, json};

fn plugin(spec: &Value) -> WasmPlugin {
    serde_json::from_value(json!({
        "apiVersion": samovar_crds::API_VERSION, "kind": "WasmPlugin",
        "metadata": { "name": "text", "namespace": "demo" }, "spec": spec
    }))
    .unwrap()
}

fn refusal(plugin: &WasmPlugin) -> Option<String> {
    plugin.validate_cel().err().map(|errors| format!("{errors:?}"))
}

#[test]
fn a_plugin_of_an_image_alone_has_every_default() {
    let plugin = plugin(&json!({ "image": "registry.example.com/text:1" }));
    assert_eq!(refusal(&plugin), None);
    assert_eq!(plugin.spec.template.limits.memory.bytes(), 64 << 20);
    assert_eq!(plugin.spec.template.instances.reuse, None);
}

#[test]
fn invalid_specs_are_refused_with_a_sentence() {
    for (spec, sentence) in [
        (json!({ "image": "a", "replicas": -1 }), "replicas must be 0 or more"),
        (json!({ "image": "a", "modulePath": "../x.wasm" }), "without `..`"),
        (json!({ "image": "a", "modulePath": "/x.wasm" }), "without `..`"),
        (json!({ "image": "a", "functions": [{ "name": "Upper" }] }), "DNS label"),
        (json!({ "image": "a:1", "imagePullPolicy": "Never" }), "by digest"),
    ] {
        let refusal = refusal(&plugin(&spec)).unwrap_or_else(|| panic!("{spec} was taken"));
        assert!(refusal.contains(sentence), "{refusal}");
    }
}

#[test]
fn every_field_that_people_write_is_described() {
    fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if property["description"].as_str().is_none() && !path.contains(".conditions") {
                found.push(path.clone());
            }
            undescribed(&path, property, found);
            undescribed(&format!("{path}[]"), &property["items"], found);
        }
    }
    for crd in all() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let mut found = Vec::new();
        undescribed("", &schema["openAPIV3Schema"]["properties"]["spec"], &mut found);
        assert_eq!(found, Vec::<String>::new(), "{}", crd.spec.names.kind);
    }
}

#[test]
fn the_status_of_an_older_agent_fits_the_schema() {
    let assignments = all().into_iter().find(|crd| crd.spec.names.kind == "PluginAssignment").unwrap();
    let schema = serde_json::to_value(&assignments.spec.versions[0].schema).unwrap();
    let status = &schema["openAPIV3Schema"]["properties"]["status"];
    for field in ["figures", "loadStats"] {
        let fields = status["properties"][field]["properties"].as_object().unwrap();
        assert!(fields.contains_key("codeBytes"), "{field}: {fields:?}");
    }
    assert_eq!(status["required"], Value::Null);

    let older: PluginAssignmentStatus =
        serde_json::from_value(json!({ "state": "Ready", "figures": { "codeBytes": 7 } })).unwrap();
    assert_eq!(older.figures, Some(LoadStats { code_bytes: 7, ..LoadStats::default() }));
    assert_eq!(older.load_stats, None);
}
