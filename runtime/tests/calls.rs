//! Calls of real modules: each ABI, each limit, each failure.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use samovar_runtime::{Abi, Call, CallError, Format, FunctionRequest, Limits, LoadError, PluginSpec, Reuse};
use support::{Node, call, function, json, load};

fn spec() -> PluginSpec {
    let spec = support::spec();
    let limits = Limits { memory: 1 << 20, concurrency: 4, queue: 4, response_bytes: 1 << 20, ..spec.limits };
    PluginSpec { limits, ..spec }
}

#[tokio::test]
async fn scalar_functions_take_and_return_numbers() {
    let plugin = load(
        r#"(module
            (func (export "add_up") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
            (func (export "big") (param i64) (result i64) (local.get 0))
            (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2)))
            (func (export "zero") (param f32) (result f32) (f32.div (local.get 0) (f32.const 0)))
            (func (export "swap") (param i32 i64) (result i64 i32) (local.get 1) (local.get 0))
            (func (export "nothing")))"#,
        spec(),
    )
    .await
    .unwrap();
    assert_eq!(json(&plugin, "add-up", "[2, -3]").await, "-1");
    assert_eq!(json(&plugin, "add-up", r#"{"p1": 1, "p0": "40"}"#).await, "41");
    assert_eq!(json(&plugin, "big", "[-9223372036854775808]").await, "-9223372036854775808");
    assert_eq!(json(&plugin, "half", "[3]").await, "1.5");
    assert_eq!(json(&plugin, "zero", "[1.5]").await, r#""Infinity""#);
    assert_eq!(json(&plugin, "swap", "[1, 2]").await, "[2,1]");
    assert_eq!(json(&plugin, "nothing", "").await, "null");
    assert_eq!(plugin.function("add-up").unwrap().abi(), Some(Abi::Scalar));
    assert_eq!(plugin.function("swap").unwrap().signature(), "func(i32, i64) -> (i64, i32)");
}

#[tokio::test]
async fn mismatched_arguments_are_refused_with_the_reason() {
    let plugin = load(r#"(module (func (export "f") (param i32 i32) (result i32) (local.get 0)))"#, spec())
        .await
        .unwrap();
    for (body, says) in [
        ("[1]", "`p1` is missing"),
        ("", "`p0` is missing"),
        ("[1, 2, 3]", "too many values: expected 2"),
        (r#"{"p0": 1, "p1": 2, "x": 3}"#, "unknown name `x`: expected one of `p0`, `p1`"),
        (r#"{"p0": 1, "p0": 2}"#, "duplicate name `p0`"),
        ("[1, 4294967296]", "p1: 4294967296 is out of range for s32"),
        ("[1, 1.5]", "p1: "),
        ("[1, true]", "p1: "),
        ("[1, 2", "EOF"),
        ("[1, 2] x", "trailing characters"),
        ("7", "an object by name or an array by position"),
    ] {
        match call(&plugin, "f", body).await {
            Err(CallError::BadArguments(message)) => assert!(message.contains(says), "{body}: {message}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

const GREET: &str = r#"(module
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 1024))
    (data (i32.const 0) "hello ")
    (func (export "alloc") (param i32) (result i32)
        global.get $top
        (global.set $top (i32.add (global.get $top) (local.get 0))))
    (func (export "echo") (param i32 i32) (result i64)
        (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1))))
    (func (export "lie") (param i32 i32) (result i64) (i64.const -1)))"#;

#[tokio::test]
async fn buffer_functions_take_and_return_bytes() {
    let plugin = load(GREET, spec()).await.unwrap();
    let echo = plugin.function("echo").unwrap();
    assert_eq!(echo.abi(), Some(Abi::Buffer));
    assert!(echo.takes_bytes());
    assert!(plugin.function("alloc").is_none());
    let call = Call { body: Bytes::from_static(&[0, 255, 7]), format: Format::Bytes, answer_bytes: true };
    let answer = plugin.call(echo, call).await.unwrap();
    assert_eq!((&answer.body[..], answer.format), (&[0, 255, 7][..], Format::Bytes));
}

#[tokio::test]
async fn an_out_of_bounds_buffer_is_a_trap_or_too_large() {
    let plugin = load(GREET, spec()).await.unwrap();
    assert!(matches!(call(&plugin, "lie", "x").await, Err(CallError::ResponseTooLarge { .. })));
    let mut wide = spec();
    wide.limits.response_bytes = u64::MAX;
    let plugin = load(GREET, wide).await.unwrap();
    let error = call(&plugin, "lie", "x").await.unwrap_err();
    assert!(error.to_string().contains("past its memory's end"), "{error}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let mut small = spec();
    small.limits.request_bytes = 4;
    let plugin = load(GREET, small).await.unwrap();
    assert!(matches!(call(&plugin, "echo", "12345").await, Err(CallError::TooLarge { limit: 4 })));
    assert!(call(&plugin, "echo", "1234").await.is_ok());
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_timeout() {
    let mut quick = spec();
    quick.functions = vec![FunctionRequest { timeout: Some(Duration::from_millis(50)), ..function("spin") }];
    let plugin = load(r#"(module (func (export "spin") (loop (br 0))))"#, quick).await.unwrap();
    match call(&plugin, "spin", "").await {
        Err(CallError::Timeout { limit }) => assert_eq!(limit, Duration::from_millis(50)),
        other => panic!("{other:?}"),
    }
    assert_eq!(plugin.running(), 0);
}

#[tokio::test]
async fn memory_growth_ends_at_the_limit() {
    let plugin = load(
        r#"(module (memory 1)
            (func (export "minds") (loop (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br 0)))
            (func (export "minds_not") (loop (drop (memory.grow (i32.const 1))) (br 0)))
            (func (export "small") (result i32) (memory.grow (i32.const 1))))"#,
        spec(),
    )
    .await
    .unwrap();
    assert!(matches!(call(&plugin, "minds", "").await, Err(CallError::MemoryLimit { limit: 1_048_576 })));
    assert!(matches!(call(&plugin, "minds-not", "").await, Err(CallError::MemoryLimit { .. })));
    assert_eq!(json(&plugin, "small", "").await, "1");
}

#[tokio::test]
async fn a_trap_includes_the_guests_backtrace() {
    let plugin = load(
        r#"(module
            (func $inner unreachable)
            (func $outer (export "f") call $inner))"#,
        spec(),
    )
    .await
    .unwrap();
    match call(&plugin, "f", "").await {
        Err(CallError::Trap { message, backtrace }) => {
            assert!(message.contains("unreachable"), "{message}");
            assert_eq!(backtrace, ["inner", "outer"]);
        }
        other => panic!("{other:?}"),
    }
}

const COUNTER: &str = r#"(module
    (global $calls (mut i32) (i32.const 0))
    (func (export "count") (result i32)
        (global.set $calls (i32.add (global.get $calls) (i32.const 1))) global.get $calls)
    (func (export "trap") unreachable))"#;

#[tokio::test]
async fn every_call_has_a_fresh_instance() {
    let plugin = load(COUNTER, spec()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(json(&plugin, "count", "").await, "1");
    }
}

#[tokio::test]
async fn an_instance_is_reused_until_max_calls_and_never_after_a_trap() {
    let mut reused = spec();
    reused.instances.reuse = Some(Reuse { max_calls: 3, idle: Duration::from_mins(1) });
    let plugin = load(COUNTER, reused).await.unwrap();
    let mut counts = Vec::new();
    for _ in 0..5 {
        counts.push(json(&plugin, "count", "").await);
    }
    assert_eq!(counts, ["1", "2", "3", "1", "2"]);
    assert!(call(&plugin, "trap", "").await.is_err());
    assert_eq!(json(&plugin, "count", "").await, "1");
}

#[tokio::test]
async fn a_reactor_is_initialized_and_refused_if_that_fails() {
    let reactor = r#"(module (global $ready (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $ready (i32.const 1)))
        (func (export "ready") (result i32) global.get $ready))"#;
    let plugin = load(reactor, spec()).await.unwrap();
    assert_eq!(json(&plugin, "ready", "").await, "1");
    for broken in [
        r#"(module (func (export "_initialize") unreachable) (func (export "f")))"#,
        r#"(module (func $start unreachable) (start $start) (func (export "f")))"#,
        r#"(module (memory 100) (func (export "f")))"#,
    ] {
        assert!(matches!(load(broken, spec()).await, Err(LoadError::Init(_))), "{broken}");
    }
}

#[tokio::test]
async fn missing_exports_and_ungranted_imports_are_named() {
    let unknown = r#"(module (import "env" "secret" (func)) (func (export "f")))"#;
    let error = load(unknown, spec()).await.err().unwrap();
    assert!(matches!(&error, LoadError::ImportNotGranted(why) if why.contains("env::secret")), "{error}");

    let mut wanting = spec();
    wanting.functions = vec![function("missing")];
    let error = load(COUNTER, wanting).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "function `missing`: the module has no export `missing`; it exports count, trap"
    );

    let mut wrong = spec();
    wrong.functions = vec![FunctionRequest { abi: Some(Abi::Buffer), ..function("count") }];
    assert!(matches!(load(COUNTER, wrong).await, Err(LoadError::ExportNotFound(_))));
    assert!(matches!(load("(module)", spec()).await, Err(LoadError::ExportNotFound(_))));
}

#[tokio::test]
async fn calls_beyond_concurrency_and_queue_are_refused_at_once() {
    let mut narrow = spec();
    narrow.limits.concurrency = 1;
    narrow.limits.queue = 0;
    narrow.limits.timeout = Duration::from_millis(300);
    let plugin = load(r#"(module (func (export "spin") (loop (br 0))))"#, narrow).await.unwrap();
    let (first, second) = tokio::join!(call(&plugin, "spin", ""), call(&plugin, "spin", ""));
    assert!(matches!(first, Err(CallError::Timeout { .. })), "{first:?}");
    assert!(matches!(second, Err(CallError::Overloaded)), "{second:?}");
}

#[tokio::test]
async fn loading_without_a_free_instance_is_agent_full() {
    let node = Node::with_instances(1);
    let mut plugins = Vec::new();
    let error = loop {
        match node.load(r#"(module (memory 1) (func (export "f")))"#, spec()).await {
            Ok(plugin) => plugins.push(plugin),
            Err(error) => break error,
        }
        assert!(plugins.len() < 10, "instances never run out");
    };
    assert!(matches!(error, LoadError::AgentFull), "{error}");
}

#[tokio::test]
async fn a_closed_plugin_holds_no_instances_and_refuses_calls() {
    let plugin = load(COUNTER, spec()).await.unwrap();
    assert_eq!(plugin.ready_instances(), 1);
    plugin.close();
    assert_eq!(plugin.ready_instances(), 0);
    assert!(matches!(call(&plugin, "count", "").await, Err(CallError::Closed)));
}

#[tokio::test]
async fn a_module_with_hundreds_of_functions_loads_only_with_a_selection() {
    let exports = (0..501).fold(String::new(), |all, at| all + &format!("(func (export \"f{at}\"))"));
    let module = format!("(module {exports})");
    let refused = load(&module, PluginSpec::default()).await.err().unwrap();
    assert!(matches!(&refused, LoadError::ExportNotFound(why) if why.contains("501 functions")), "{refused}");
    let one = PluginSpec { functions: vec![function("f500")], ..PluginSpec::default() };
    let plugin = load(module, one).await.unwrap();
    assert_eq!(plugin.functions().len(), 1);
}
