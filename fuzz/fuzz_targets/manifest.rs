//! Manifests: whatever YAML says is a plugin or a refusal with a reason; a plugin is read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use samovar_crds::WasmPlugin;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let Ok(documents) = serde_saphyr::from_multiple::<Value>(text) else { return };
    for document in documents {
        match WasmPlugin::from_manifest(&document) {
            Ok(plugin) => {
                let written = serde_json::to_value(&plugin).expect("a plugin can be written");
                let again = WasmPlugin::from_manifest(&written).expect("what was written can be read");
                assert_eq!(again.spec, plugin.spec);
            }
            Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
        }
    }
});
