//! Problem objects: for any text of a guest, its caller gets valid JSON with a stable type.

#![no_main]

use libfuzzer_sys::fuzz_target;
use samovar_node_agent::fuzzing::problem;
use samovar_runtime::CallError;
use serde_json::Value;

fuzz_target!(|input: (u8, String, Vec<String>)| {
    let (kind, text, backtrace) = input;
    let json = problem(match kind % 5 {
        0 => CallError::BadArguments(text),
        1 => CallError::Trap { message: text, backtrace },
        2 => CallError::GuestError(text),
        3 => CallError::Init(text),
        _ => CallError::NotCallable(text),
    });
    let problem: Value = serde_json::from_slice(&json).expect("a problem is JSON");
    let of = problem["type"].as_str().expect("a problem has a type");
    assert!(of.starts_with("https://samovar.dev/problems/"));
    assert!(problem["status"].as_u64().is_some_and(|status| (400..600).contains(&status)));
    assert!(!problem["detail"].is_null() || kind % 5 == 2);
});
