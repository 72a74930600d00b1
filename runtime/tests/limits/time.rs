//! The timeout: whatever a guest does, it ends then.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use samovar_runtime::{CallError, Instances, Limits, LoadError, Plugin, PluginSpec};

use crate::{
    limits, spec,
    support::{Node, call, until},
};

/// The delay after its timeout beyond which a guest counts as not interrupted.
const GRACE: Duration = Duration::from_millis(200);

/// Calls a function that never ends, and checks that it ends at its timeout. A busy machine may be late now and then; a
/// guest that cannot be interrupted is late each time.
async fn ends_at(timeout: Duration, plugin: &Plugin, what: &str) {
    let mut late = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let ended = call(plugin, "f", "").await;
        let took = started.elapsed();
        assert!(matches!(ended, Err(CallError::Timeout { limit }) if limit == timeout), "{what}: {ended:?}");
        assert!(took >= timeout, "{what} ended after {took:?} of {timeout:?}");
        assert_eq!(plugin.running(), 0, "{what}");
        if took < timeout + GRACE {
            return;
        }
        late.push(took);
    }
    panic!("{what} ran for {late:?} of {timeout:?}");
}

/// Modules that do not end by themselves, or not soon, each in its own way.
const HANGS: [(&str, &str); 5] = [
    ("a loop", r#"(module (func (export "f") (loop (br 0))))"#),
    ("calls without end", r#"(module (func $f (export "f") (loop (call $g) (br 0))) (func $g))"#),
    (
        "fills",
        r#"(module (memory 1024) (func (export "f")
        (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x4000000)) (br 0))))"#,
    ),
    (
        "copies",
        r#"(module (memory 1024) (func (export "f")
        (loop (memory.copy (i32.const 0) (i32.const 1) (i32.const 0x3ffffff)) (br 0))))"#,
    ),
    (
        "a long sleep",
        r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "\00\00\00\00") (data (i32.const 24) "\00\00\00\00\ff\00\00\00")
        (func (export "f") (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#,
    ),
];

/// Instructions that process 1 GiB each.
const LONG: [(&str, &str); 2] = [
    ("one fill", "(memory.fill (i32.const 0) (i32.const 1) (i32.const 0x40000000))"),
    ("one copy", "(memory.copy (i32.const 0) (i32.const 1) (i32.const 0x3fffffff))"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_single_long_instruction_is_interrupted() {
    let node = Node::with_instances(4);
    let spec = |timeout| spec(Limits { timeout, memory: 1025 << 20, ..limits() });
    for (what, instruction) in LONG {
        let wat = format!(r#"(module (memory 16384) (func (export "f") {instruction}))"#);
        for timeout in [Duration::from_millis(1), Duration::from_millis(50)] {
            ends_at(timeout, &node.load(&wat, spec(timeout)).await.unwrap(), what).await;
        }
        let plugin = node.load(&wat, spec(Duration::from_mins(1))).await.unwrap();
        assert!(call(&plugin, "f", "").await.is_ok(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_hang_ends_at_its_timeout() {
    for (what, wat) in HANGS {
        let node = Node::with_instances(4);
        for timeout in [Duration::from_millis(100), Duration::from_millis(400)] {
            let spec = spec(Limits { timeout, memory: 65 << 20, ..limits() });
            let plugin = node.load(wat, spec).await.unwrap();
            ends_at(timeout, &plugin, what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_counts_towards_the_timeout_of_its_call() {
    let milliseconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    // Hangs from then on: only the time distinguishes one instance of a module from the next.
    let hangs_from = milliseconds() + 2000;
    let wat = format!(
        r#"(module (import "env" "get_time" (func $now (result i64)))
            (func $start (loop (br_if 0 (i64.ge_u (call $now) (i64.const {hangs_from})))))
            (start $start) (func (export "f")))"#
    );
    let node = Node::with_instances(4);
    let mut plugins = Vec::new();
    for timeout in [Duration::from_millis(100), Duration::from_millis(400)] {
        let spec = PluginSpec {
            instances: Instances { warm: 0, reuse: None },
            ..spec(Limits { timeout, ..limits() })
        };
        plugins.push((timeout, node.load(&wat, spec).await.unwrap()));
    }
    until(|| milliseconds() >= hangs_from).await;
    for (timeout, plugin) in plugins {
        ends_at(timeout, &plugin, "a start function").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_whose_start_never_ends_is_refused() {
    let loads = [
        r#"(module (func $start (loop (br 0))) (start $start) (func (export "f")))"#,
        r#"(module (func (export "_initialize") (loop (br 0))) (func (export "f")))"#,
    ]
    .map(|wat| async move {
        let started = Instant::now();
        let refused = Node::with_instances(4).load(wat, spec(limits())).await.err();
        assert!(matches!(refused, Some(LoadError::Init(_))), "{refused:?}");
        started.elapsed()
    });
    // The timeout of starting an instance ahead of calls.
    let limit = Duration::from_secs(10);
    for took in join_all(loads).await {
        assert!(took >= limit && took < limit + 5 * GRACE, "it was refused after {took:?}");
    }
}
