//! The conventions of other hosts, whose modules run unchanged, and the config in each form in which guests get it.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod support;

use std::time::Duration;

use samovar_runtime::{
    Abi, CallError, FunctionRequest, Inspection, Instances, Limits, LoadError, Plugin, PluginSpec, Reuse,
};
use serde_json::{Value, json};
use support::{Node, function, guest, text};

fn spec(config: Value) -> PluginSpec {
    let spec = support::spec();
    let limits = Limits { response_bytes: 1 << 16, ..spec.limits };
    PluginSpec { limits, config: serde_json::from_value(config).unwrap(), ..spec }
}

/// Loads a module, and checks that `inspect` knows all its imports.
async fn load(module: impl AsRef<[u8]>, spec: PluginSpec) -> Result<Plugin, LoadError> {
    let node = Node::with_instances(20);
    let artifact = node.artifact(module).await;
    let unknown = Inspection::of(&artifact).imports.into_iter().find(|import| !import.provided);
    assert_eq!(unknown, None);
    Plugin::load(&node.engine, &artifact, spec).await
}

async fn call(plugin: &Plugin, function: &str, body: &str) -> Result<String, CallError> {
    Ok(text(&support::call(plugin, function, body).await?))
}

fn names(plugin: &Plugin) -> Vec<(&str, Option<Abi>)> {
    plugin.functions().iter().map(|function| (function.name(), function.abi())).collect()
}

#[tokio::test]
async fn a_dataflare_plugin_gets_its_config_before_its_data() {
    let plugin = load(guest("tests/guests/trio.wat"), spec(json!({ "b": [1], "a": "x" }))).await.unwrap();
    assert_eq!(names(&plugin), [("process-data", Some(Abi::Buffer))]);
    for _ in 0..3 {
        let answer = call(&plugin, "process-data", "data").await.unwrap();
        assert_eq!(answer, r#"{"a":"x","b":[1]}|data"#);
    }
    assert_eq!(call(&plugin, "process-data", "?clock").await.unwrap(), r#"{"a":"x","b":[1]}|?clock"#);
    assert_eq!(call(&plugin, "process-data", "0").await.unwrap(), "");
    match call(&plugin, "process-data", "!").await {
        Err(CallError::GuestError(why)) => assert_eq!(why, r#""`process_data` returned -7""#),
        other => panic!("{other:?}"),
    }
    let plain = load(guest("tests/guests/trio.wat"), spec(Value::Null)).await.unwrap();
    assert_eq!(call(&plain, "process-data", "data").await.unwrap(), "{}|data");
}

#[tokio::test]
async fn a_dataflare_instance_is_initialized_once_and_cleaned_up() {
    let wat = r#"(module
        (memory (export "memory") 1)
        (global $told (mut i32) (i32.const 0))
        (func (export "plugin_init") (param i32 i32) (result i32)
            (global.set $told (i32.add (global.get $told) (i32.const 1)))
            (i32.const 0))
        (func (export "alloc") (param i32) (result i32) (i32.const 2048))
        (func (export "process_data") (param i32 i32) (result i64)
            (i32.store8 (i32.const 16) (i32.add (i32.const 48) (global.get $told)))
            (i64.const 68719476737))
        (func (export "plugin_cleanup") (loop (br 0))))"#;
    let reuse = Some(Reuse { max_calls: 3, idle: Duration::from_mins(1) });
    let limits = Limits { timeout: Duration::from_millis(300), ..Limits::default() };
    let spec = PluginSpec { limits, instances: Instances { warm: 1, reuse }, ..spec(Value::Null) };
    let plugin = load(wat, spec).await.unwrap();
    for _ in 0..2 {
        assert_eq!(call(&plugin, "process-data", "x").await.unwrap(), "1");
    }
    // The cleanup after the last call never ends: the timeout ends it.
    let last = call(&plugin, "process-data", "x").await;
    assert!(matches!(last, Err(CallError::Timeout { .. })), "{last:?}");
}

#[tokio::test]
async fn every_dataflare_host_function_has_both_its_names() {
    let wat = r#"(module
        (import "env" "log" (func (param i32 i32 i32)))
        (import "env" "host_log" (func $log (param i32 i32 i32 i32)))
        (import "env" "get_time" (func $time (result i64)))
        (import "env" "host_get_time" (func $host_time (result i64)))
        (import "env" "random" (func $random (param i64) (result i64)))
        (import "env" "host_random" (func $host_random (result i64)))
        (memory (export "memory") 1)
        (data (i32.const 0) "warnhello")
        (func (export "says") (param i32) (result i32)
            (call $log (i32.const 0) (i32.const 4) (i32.const 4) (local.get 0))
            (i32.and
                (i64.le_u (call $time) (call $host_time))
                (i32.and
                    (i64.eqz (call $random (i64.const 1)))
                    (i64.lt_u (call $host_random) (i64.const 100))))))"#;
    let plugin = load(wat, spec(Value::Null)).await.unwrap();
    assert_eq!(call(&plugin, "says", "[5]").await.unwrap(), "1");
    match call(&plugin, "says", "[65533]").await {
        Err(CallError::Trap { message, .. }) => {
            assert!(message.contains("past its memory's end"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_config_that_a_plugin_refuses_is_a_failed_init() {
    let wat = r#"(module
        (memory (export "memory") 1)
        (func (export "plugin_init") (param i32 i32) (result i32) (i32.const 5))
        (func (export "process_data") (param i32 i32) (result i32) (i32.const 0)))"#;
    match load(wat, spec(json!({}))).await {
        Err(LoadError::Init(why)) => assert!(why.contains("`plugin_init` returned 5"), "{why}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn a_wasmengine_module_gets_its_json_at_its_heap_base() {
    let plugin = load(guest("tests/guests/wasm-engine.wat"), spec(Value::Null)).await.unwrap();
    let abi = Some(Abi::WasmEngine);
    assert_eq!(names(&plugin), [("echo", abi), ("base", abi), ("lie", abi)]);
    assert_eq!(call(&plugin, "echo", r#"{"arg_uri": "uri"}"#).await.unwrap(), r#"{"arg_uri": "uri"}"#);
    assert_eq!(call(&plugin, "base", "").await.unwrap(), "1");
    assert_eq!(call(&plugin, "echo", " \n").await.unwrap(), "{}");
    assert!(matches!(call(&plugin, "lie", "").await, Err(CallError::Trap { .. })));
    for wrong in ["{", "{} {}", "word"] {
        assert!(matches!(call(&plugin, "echo", wrong).await, Err(CallError::BadArguments(_))), "{wrong}");
    }
    // More than the one page that the host adds for WasmEngine.
    let most = call(&plugin, "echo", &format!(r#"["{}"]"#, "x".repeat(200_000))).await;
    assert!(matches!(most, Err(CallError::ResponseTooLarge { .. })), "{most:?}");
}

#[tokio::test]
async fn memory_that_the_host_adds_counts_towards_the_limit() {
    let limits = Limits { memory: 1 << 16, ..Limits::default() };
    let small = || PluginSpec { limits: limits.clone(), ..spec(Value::Null) };
    let plugin = load(guest("tests/guests/wasm-engine.wat"), small()).await.unwrap();
    let refused = call(&plugin, "echo", "").await;
    assert!(matches!(refused, Err(CallError::MemoryLimit { limit: 65536 })), "{refused:?}");
    match load(guest("tests/guests/trio.wat"), small()).await {
        Err(LoadError::Init(why)) => assert!(why.contains("raise `limits.memory`"), "{why}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn a_wasmengine_command_gets_its_json_as_its_own_name() {
    let request = FunctionRequest { abi: Some(Abi::WasmEngine), ..function("auth") };
    let spec = PluginSpec { functions: vec![request], ..spec(Value::Null) };
    let plugin = load(guest("tests/guests/command.wat"), spec).await.unwrap();
    // The fixture prints a newline after its argument, which is not part of the answer.
    assert_eq!(call(&plugin, "auth", r#"{"a": "b\u0000"}"#).await.unwrap(), r#"{"a": "b\u0000"}"#);
    assert_eq!(call(&plugin, "auth", "").await.unwrap(), "{}");
}

#[tokio::test]
async fn a_core_module_has_its_config_in_the_environment() {
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "alloc") (param i32) (result i32) (i32.const 8))
        (func (export "environment") (param i32 i32) (result i64)
            (drop (call $sizes (i32.const 0) (i32.const 4)))
            (drop (call $get (i32.const 16) (i32.const 1024)))
            (i64.or (i64.const 4398046511104) (i64.extend_i32_u (i32.load (i32.const 4))))))"#;
    let plugin = load(wat, spec(json!({ "locale": "en" }))).await.unwrap();
    let environment = call(&plugin, "environment", "").await.unwrap();
    assert_eq!(environment, "SAMOVAR_CONFIG={\"locale\":\"en\"}\0");
    let plugin = load(wat, spec(Value::Null)).await.unwrap();
    assert_eq!(call(&plugin, "environment", "").await.unwrap(), "");
}

/// A component in the text format that returns the value of a `key` in `wasi:config/store`.
const LOOKS_UP: &str = r#"(component
    (type $store (instance
        (type $error (variant (case "upstream" string) (case "io" string)))
        (export "error" (type $exported (eq $error)))
        (type $found (option string))
        (type $answer (result $found (error $exported)))
        (export "get" (func (param "key" string) (result $answer)))))
    (import "wasi:config/store@0.2.0-rc.1" (instance $config (type $store)))
    (core module $memory
        (memory (export "memory") 1)
        (global $top (mut i32) (i32.const 1024))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
            global.get $top
            (global.set $top (i32.add (global.get $top) (local.get 3)))))
    (core instance $m (instantiate $memory))
    (alias core export $m "memory" (core memory $mem))
    (alias core export $m "cabi_realloc" (core func $realloc))
    (alias export $config "get" (func $get))
    (core func $get_lowered (canon lower (func $get) (memory $mem) (realloc $realloc)))
    (core module $main
        (import "config" "get" (func $get (param i32 i32 i32)))
        (func (export "look-up") (param i32 i32) (result i32)
            (call $get (local.get 0) (local.get 1) (i32.const 512))
            ;; Skips the discriminant of the result, which is ok, to the option.
            (i32.const 516)))
    (core instance $i (instantiate $main (with "config" (instance (export "get" (func $get_lowered))))))
    (type $found (option string))
    (func (export "look-up") (param "key" string) (result $found)
        (canon lift (core func $i "look-up") (memory $mem) (realloc $realloc))))"#;

#[tokio::test]
async fn a_component_looks_up_its_config_by_top_level_key() {
    let config = json!({ "locale": "en", "deep": { "list": [1, "2"] }, "n": 1.5, "none": null });
    let plugin = load(LOOKS_UP, spec(config)).await.unwrap();
    for (key, found) in [
        (r#"["locale"]"#, json!("en")),
        (r#"["deep"]"#, json!(r#"{"list":[1,"2"]}"#)),
        (r#"["n"]"#, json!("1.5")),
        (r#"["none"]"#, json!("null")),
        (r#"["list"]"#, Value::Null),
    ] {
        assert_eq!(call(&plugin, "look-up", key).await.unwrap(), found.to_string(), "{key}");
    }
    let plugin = load(LOOKS_UP, spec(Value::Null)).await.unwrap();
    assert_eq!(call(&plugin, "look-up", r#"["locale"]"#).await.unwrap(), "null");
}
