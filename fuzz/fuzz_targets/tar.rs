//! Layers of an image: whatever they hold, a module comes out of them or a refusal, within bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use samovar_registry::fuzzing::module;

/// The largest module that is taken.
const CAP: u64 = 1 << 20;

fuzz_target!(|input: (Option<&str>, Vec<Vec<u8>>)| {
    let (path, layers) = input;
    match module(layers, path, CAP) {
        Ok(bytes) => assert!(bytes.len() as u64 <= CAP.max(64 << 10)),
        Err(why) => assert!(!why.is_empty()),
    }
});
