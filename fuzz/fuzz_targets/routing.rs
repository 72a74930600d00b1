//! Routing: any host and path leads to the known plugin, to one of its functions, or to a problem.

#![no_main]

use libfuzzer_sys::fuzz_target;
use samovar_node_agent::fuzzing::{Routed, route};

fuzz_target!(|input: (Option<&str>, &str)| {
    let (host, path) = input;
    // The only plugin is `text` in `demo`.
    match route(host, path) {
        Routed::Plugin => {}
        Routed::Function(name) => assert!(!name.is_empty() && path.ends_with(&name)),
        Routed::Problem(json) => {
            assert!(json.len() < 4096 && serde_json::from_slice::<serde_json::Value>(&json).is_ok())
        }
    }
});
