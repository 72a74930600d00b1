//! One memory budget for all plugins: calls reserve from it, and release however they end.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod support;

use std::time::Duration;

use futures::future::join_all;
use samovar_runtime::{
    Answer, CallError, CompileError, Instances, Limits, LoadError, ModuleDigest, Plugin, PluginSpec,
};
use support::{Node, until};

const MIB: u64 = 1 << 20;

/// Grows to a number of pages, and returns the number that it has; its own limit is 9 MiB.
const GREEDY: &str = r#"(module
    (memory (export "memory") 16)
    (func (export "alloc") (param i32) (result i32) (i32.const 0))
    (func (export "echo") (param i32 i32) (result i64) (i64.extend_i32_u (local.get 1)))
    (func $to (param i32) (drop (memory.grow (i32.sub (local.get 0) (memory.size)))))
    (func (export "grow") (param i32) (result i32) (call $to (local.get 0)) memory.size)
    (func (export "trap") (param i32) (call $to (local.get 0)) unreachable)
    (func (export "spin") (param i32) (call $to (local.get 0)) (loop (br 0))))"#;

async fn load(node: &Node, warm: u32) -> Result<Plugin, LoadError> {
    let limits = Limits { memory: 9 * MIB, timeout: Duration::from_millis(300), ..Limits::default() };
    let instances = Instances { warm, reuse: None };
    node.load(GREEDY, PluginSpec { limits, instances, ..support::spec() }).await
}

async fn call(plugin: &Plugin, function: &str, mebibytes: u64) -> Result<Answer, CallError> {
    support::call(plugin, function, format!("[{}]", mebibytes * 16)).await
}

#[tokio::test]
async fn memory_is_released_however_a_call_ends() {
    let node = Node::with_memory(64 * MIB);
    let plugin = load(&node, 0).await.unwrap();
    let before = node.used();
    let spins = async { assert!(matches!(call(&plugin, "spin", 8).await, Err(CallError::Timeout { .. }))) };
    tokio::join!(spins, until(|| node.used() >= before + 8 * MIB));
    assert_eq!(node.used(), before);
    assert!(matches!(call(&plugin, "trap", 8).await, Err(CallError::Trap { .. })));
    assert_eq!(node.used(), before);
    let answer = call(&plugin, "grow", 8).await.unwrap();
    assert_eq!(&answer.body[..], b"128");
    assert_eq!(node.used(), before + 3, "the answer is reserved");
    drop(answer);
    assert_eq!(node.used(), before);
    drop(plugin);
    assert!(node.used() < before, "its code is still reserved");
}

#[tokio::test]
async fn growth_beyond_the_budget_ends_the_call_and_beyond_the_limit_only_fails() {
    let node = Node::with_memory(12 * MIB);
    let plugin = load(&node, 0).await.unwrap();
    let (first, second) = tokio::join!(call(&plugin, "spin", 8), async {
        until(|| node.used() >= 8 * MIB).await;
        call(&plugin, "grow", 8).await
    });
    assert!(matches!(first, Err(CallError::Timeout { .. })), "{first:?}");
    assert!(matches!(second, Err(CallError::NodeMemory)), "{second:?}");
    assert_eq!(&call(&plugin, "grow", 8).await.unwrap().body[..], b"128");
    // At its own limit, `memory.grow` fails and the guest continues.
    assert_eq!(&call(&plugin, "grow", 10).await.unwrap().body[..], b"16");
}

#[tokio::test]
async fn calls_are_refused_while_no_instance_fits_the_budget() {
    let node = Node::with_memory(10 * MIB);
    let plugin = load(&node, 0).await.unwrap();
    let answers = join_all((0..20).map(|_| call(&plugin, "spin", 1))).await;
    let refused = answers.iter().filter(|answer| matches!(answer, Err(CallError::NodeMemory))).count();
    let ran = answers.iter().filter(|answer| matches!(answer, Err(CallError::Timeout { .. }))).count();
    assert_eq!((refused + ran, ran), (20, 6), "each reserves a little more than 1.5 MiB");
    assert!(call(&plugin, "grow", 1).await.is_ok());
}

#[tokio::test]
async fn idle_instances_are_evicted_when_a_call_needs_their_memory() {
    let node = Node::with_memory(12 * MIB);
    let (idle, busy) = (load(&node, 4).await.unwrap(), load(&node, 0).await.unwrap());
    assert_eq!(idle.ready_instances(), 4);
    assert_eq!(&call(&busy, "grow", 9).await.unwrap().body[..], b"144");
    assert_eq!(idle.ready_instances(), 0);
    assert!(call(&idle, "grow", 1).await.is_ok());
}

#[tokio::test]
async fn no_instance_is_warmed_from_the_last_quarter_of_the_budget() {
    let node = Node::with_memory(8 * MIB);
    let plugin = load(&node, 20).await.unwrap();
    assert_eq!(plugin.ready_instances(), 5, "of 6 MiB, each reserves a little more than 1 MiB");
    assert!(call(&plugin, "grow", 2).await.is_ok());
}

#[tokio::test]
async fn a_plugin_whose_first_instance_does_not_fit_is_refused() {
    let node = Node::with_memory(MIB / 2);
    assert!(matches!(load(&node, 1).await.err(), Some(LoadError::NodeMemory)));
}

#[tokio::test]
async fn nothing_is_compiled_while_calls_use_the_whole_budget() {
    let node = Node::with_memory(10 * MIB);
    let plugin = load(&node, 0).await.unwrap();
    let compile = async || {
        let wasm = wat::parse_str(r#"(module (func (export "another")))"#).unwrap();
        node.cache.compile(&ModuleDigest::of(&wasm), wasm.into()).await
    };
    let (spun, refused) = tokio::join!(call(&plugin, "spin", 8), async {
        until(|| node.used() >= 8 * MIB).await;
        compile().await
    });
    assert!(matches!(spun, Err(CallError::Timeout { .. })), "{spun:?}");
    assert!(matches!(refused.err(), Some(CompileError::NodeMemory)));
    assert!(compile().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_calls_stay_within_the_budget_and_release_all() {
    let node = Node::with_memory(20 * MIB);
    let plugins = [load(&node, 2).await.unwrap(), load(&node, 0).await.unwrap()];
    let calls = (0..200_usize).map(|at| {
        let (plugin, budget) = (plugins[at % 2].clone(), node.engine.memory().clone());
        tokio::spawn(async move {
            let answer = call(&plugin, ["grow", "trap"][at / 2 % 2], at as u64 % 10).await;
            assert!(budget.used() <= 20 * MIB);
            !matches!(answer, Err(CallError::NodeMemory | CallError::Overloaded))
        })
    });
    let ran = join_all(calls).await.into_iter().filter(|ran| *ran.as_ref().unwrap()).count();
    assert!(ran > 0);
    for plugin in plugins {
        plugin.close();
    }
    let code_alone = 64 << 10;
    until(|| node.used() <= code_alone).await;
}
