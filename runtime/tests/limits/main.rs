//! Each limit of a call, with two values that show two behaviours.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

#[path = "../support/mod.rs"]
mod support;
mod time;

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use samovar_runtime::{
    Answer, CallError, FunctionRequest, Instances, Limits, LoadError, Metering, ModuleDigest, Plugin,
    PluginSpec, Reuse,
};
use support::{Node, call, function, until};

async fn load(wat: &str, spec: PluginSpec) -> Plugin {
    support::load(wat, spec).await.unwrap()
}

fn spec(limits: Limits) -> PluginSpec {
    PluginSpec { limits, instances: Instances::default(), ..support::spec() }
}

fn limits() -> Limits {
    support::spec().limits
}

fn overloaded(answers: &[Result<Answer, CallError>]) -> usize {
    answers.iter().filter(|answer| matches!(answer, Err(CallError::Overloaded))).count()
}

fn timed_out(answers: &[Result<Answer, CallError>]) -> usize {
    answers.iter().filter(|answer| matches!(answer, Err(CallError::Timeout { .. }))).count()
}

/// Adds up the numbers below its argument; its start function uses far more fuel than that.
const SUM: &str = r#"(module
    (global $begun (mut i32) (i32.const 0))
    (func $start (local $left i32)
        (local.set $left (i32.const 10000))
        (loop (br_if 0 (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (global.set $begun (i32.const 1)))
    (start $start)
    (func $sum (export "sum") (param $left i32) (result i32) (local $sum i32)
        (loop
            (local.set $sum (i32.add (local.get $sum) (local.get $left)))
            (br_if 0 (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (local.get $sum))
    (func (export "other") (param i32) (result i32) (call $sum (local.get 0)))
    (func (export "straight") (result i32)
        (i32.add (i32.const 1) (i32.add (i32.const 2) (i32.add (i32.const 3) (i32.const 4))))))"#;

#[tokio::test]
async fn equal_calls_use_equal_fuel_and_one_unit_less_is_too_little() {
    let plenty = load(SUM, spec(Limits { fuel: Some(1_000_000), ..limits() })).await;
    for (name, body) in [("sum", "[1000]"), ("straight", "[]")] {
        let mut taken = Vec::new();
        for _ in 0..20 {
            taken.push(call(&plenty, name, body).await.unwrap().fuel.unwrap());
        }
        assert!(taken.iter().all(|&fuel| fuel == taken[0] && fuel > 0), "{taken:?}");
        let with = async |fuel: u64| {
            let functions = vec![FunctionRequest { fuel: Some(fuel), ..function(name) }];
            // A function's limit does not apply to start functions: here they have none.
            call(&load(SUM, PluginSpec { functions, ..spec(limits()) }).await, name, body).await
        };
        assert_eq!(with(taken[0]).await.unwrap().fuel, Some(taken[0]));
        assert!(matches!(with(taken[0] - 1).await, Err(CallError::FuelExhausted)), "{name}: {taken:?}");
    }
}

#[tokio::test]
async fn start_functions_have_a_separate_fuel_allowance() {
    let (start, call_alone) = (200_000, 100);
    for warm in [0, 1] {
        let instances = Instances { warm, reuse: None };
        let enough = PluginSpec { instances, ..spec(Limits { fuel: Some(start), ..limits() }) };
        let plugin = load(SUM, enough).await;
        assert!(call(&plugin, "sum", "[2]").await.unwrap().fuel.unwrap() < call_alone);
    }
    let refused = support::load(SUM, spec(Limits { fuel: Some(1000), ..limits() })).await.err();
    assert!(matches!(&refused, Some(LoadError::Init(why)) if why.contains("fuel")), "{refused:?}");
}

#[tokio::test]
async fn only_functions_with_a_limit_exhaust_fuel_and_only_their_plugins_count_it() {
    let functions = vec![FunctionRequest { fuel: Some(100), ..function("sum") }, function("other")];
    let mixed = load(SUM, PluginSpec { functions, ..spec(limits()) }).await;
    assert!(matches!(call(&mixed, "sum", "[100000]").await, Err(CallError::FuelExhausted)));
    assert!(call(&mixed, "other", "[100000]").await.unwrap().fuel.unwrap() > 100_000);
    let free = load(SUM, spec(limits())).await;
    assert_eq!(call(&free, "sum", "[100000]").await.unwrap().fuel, None);
}

#[tokio::test]
async fn metered_and_unmetered_artifacts_are_cached_separately() {
    let node = Node::with_instances(20);
    let wasm = Bytes::from(wat::parse_str(SUM).unwrap());
    let digest = ModuleDigest::of(&wasm);
    node.cache.compile(&digest, wasm.clone()).await.unwrap();
    let metered = node.cache.metered(Metering::Fuel);
    assert!(metered.get(&digest).await.is_none());
    metered.compile(&digest, wasm).await.unwrap();
    let again = node.reopened();
    let files = again.files().unwrap();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| file.is_current && file.digest == digest));
    for (metering, counts) in [(Metering::Off, false), (Metering::Fuel, true)] {
        let artifact = again.metered(metering).get(&digest).await.unwrap();
        let plugin = Plugin::load(&node.engine, &artifact, spec(limits())).await.unwrap();
        assert_eq!(call(&plugin, "sum", "[9]").await.unwrap().fuel.is_some(), counts);
    }
}

/// Grows to a number of pages, and returns the number that it has.
const GROW: &str = r#"(module (memory (export "memory") 2)
    (func $to (export "little") (param i32) (result i32)
        (if (i32.eq (memory.grow (i32.sub (local.get 0) (memory.size))) (i32.const -1)) (then unreachable))
        memory.size)
    (func (export "much") (param i32) (result i32) (call $to (local.get 0)))
    (func (export "has") (result i32) memory.size))"#;

#[tokio::test]
async fn a_function_may_have_less_or_more_memory_than_its_plugin() {
    let functions = vec![
        FunctionRequest { memory: Some(4 << 16), ..function("little") },
        FunctionRequest { memory: Some(64 << 16), ..function("much") },
        function("has"),
    ];
    let reuse = Some(Reuse { max_calls: 100, idle: Duration::from_mins(1) });
    let spec = PluginSpec {
        functions,
        instances: Instances { warm: 1, reuse },
        ..spec(Limits { memory: 16 << 16, ..limits() })
    };
    let plugin = load(GROW, spec).await;
    assert_eq!(&call(&plugin, "little", "[4]").await.unwrap().body[..], b"4");
    assert!(matches!(
        call(&plugin, "little", "[5]").await,
        Err(CallError::MemoryLimit { limit }) if limit == 4 << 16
    ));
    assert_eq!(&call(&plugin, "much", "[64]").await.unwrap().body[..], b"64");
    assert!(matches!(call(&plugin, "much", "[65]").await, Err(CallError::MemoryLimit { .. })));
    // An instance that grew beyond the limits of the other functions is reused for none of them.
    assert_eq!(&call(&plugin, "much", "[64]").await.unwrap().body[..], b"64");
    assert_eq!(&call(&plugin, "has", "").await.unwrap().body[..], b"2");
}

#[tokio::test]
async fn initial_memory_beyond_the_limit_of_a_function_is_refused() {
    let with = async |memory| {
        let functions = vec![FunctionRequest { memory: Some(memory), ..function("little") }];
        support::load(GROW, PluginSpec { functions, ..spec(limits()) }).await
    };
    let refused = with(1 << 16).await.err();
    assert!(matches!(&refused, Some(LoadError::Init(why)) if why.contains("`little`")), "{refused:?}");
    assert!(with(2 << 16).await.is_ok());
}

const SPIN: &str = r#"(module
    (func $spin (export "spin") (loop (br 0)))
    (func (export "other") call $spin)
    (func (export "quick")))"#;

#[tokio::test]
async fn a_function_has_its_own_concurrency_and_queue_within_its_plugins() {
    let limits = Limits { concurrency: 4, queue: 2, timeout: Duration::from_millis(300), ..limits() };
    let narrow = FunctionRequest { concurrency: Some(1), queue: Some(3), ..function("spin") };
    let functions = vec![narrow, function("other"), function("quick")];
    let plugin = load(SPIN, PluginSpec { functions, ..spec(limits) }).await;
    let (spins, quick) = tokio::join!(join_all((0..6).map(|_| call(&plugin, "spin", ""))), async {
        // Three calls wait for the one: the plugin still has permits for other functions.
        until(|| plugin.waiting() >= 3).await;
        join_all((0..20).map(|_| call(&plugin, "quick", ""))).await
    });
    assert_eq!((overloaded(&spins), timed_out(&spins)), (2, 4), "{spins:?}");
    assert!(overloaded(&quick) < 20, "{quick:?}");
    let others = join_all((0..7).map(|_| call(&plugin, "other", ""))).await;
    assert_eq!((overloaded(&others), timed_out(&others)), (1, 6), "four run, two wait: {others:?}");
    assert_eq!((plugin.running(), plugin.waiting()), (0, 0));
}

#[tokio::test]
async fn calls_beyond_the_instances_of_the_node_are_refused() {
    let run = async |instances: u32| {
        let node = Node::with_instances(instances);
        let quick = Limits { timeout: Duration::from_millis(300), ..limits() };
        let none_warm = Instances { warm: 0, reuse: None };
        let (plain, metered) = (quick.clone(), Limits { fuel: Some(u64::MAX >> 1), ..quick });
        let mut plugins = Vec::new();
        // Instances of both engine variants count together.
        for limits in [plain, metered] {
            let spec = PluginSpec { instances: none_warm.clone(), ..spec(limits) };
            plugins.push(node.load(SPIN, spec).await.unwrap());
        }
        let calls = join_all((0..6).map(|at| call(&plugins[at % 2], "spin", ""))).await;
        let full = calls.iter().filter(|answer| matches!(answer, Err(CallError::AgentFull))).count();
        assert_eq!(full + timed_out(&calls), 6, "{calls:?}");
        full
    };
    assert_eq!((run(2).await, run(5).await, run(6).await), (4, 1, 0));
}

/// Two memories of 64 KiB and two tables of 400 KiB.
const SEVERAL: &str = r#"(module
    (memory $a 1) (memory $b 1) (table $c 50000 funcref) (table $d 50000 funcref)
    (func (export "grow") (param i32) (result i32) (memory.grow $b (local.get 0)))
    (func (export "must-grow") (if (i32.eq (memory.grow $a (i32.const 16)) (i32.const -1)) (then unreachable))))"#;

#[tokio::test]
async fn all_memories_and_tables_of_a_module_count_towards_one_limit() {
    let limited = |memory| PluginSpec {
        instances: Instances { warm: 0, reuse: None },
        ..spec(Limits { memory, ..limits() })
    };
    let (large, small) = (load(SEVERAL, limited(2 << 20)).await, load(SEVERAL, limited(1 << 20)).await);
    assert_eq!(call(&large, "grow", "[16]").await.unwrap().body, "1");
    assert_eq!(call(&small, "grow", "[16]").await.unwrap().body, "-1");
    assert!(call(&large, "must-grow", "").await.is_ok());
    assert!(matches!(call(&small, "must-grow", "").await, Err(CallError::MemoryLimit { .. })));
    let refused = support::load(SEVERAL, limited(512 << 10)).await;
    assert!(matches!(refused, Err(LoadError::Init(_))), "{:?}", refused.err());
}

const COUNT: &str = r#"(module
    (global $calls (mut i32) (i32.const 0))
    (func $count (export "count") (result i32)
        (global.set $calls (i32.add (global.get $calls) (i32.const 1))) global.get $calls)
    (func (export "spin") (loop (br 0)))
    (func (export "trap") unreachable))"#;

async fn counts(plugin: &Plugin, calls: u32) -> Vec<String> {
    let mut counts = Vec::new();
    for _ in 0..calls {
        let answer = call(plugin, "count", "").await.unwrap();
        counts.push(String::from_utf8(answer.body.to_vec()).unwrap());
    }
    counts
}

async fn reused(max_calls: u32, idle: Duration) -> Plugin {
    let instances = Instances { warm: 0, reuse: Some(Reuse { max_calls, idle }) };
    let limits = Limits { timeout: Duration::from_millis(200), ..limits() };
    load(COUNT, PluginSpec { instances, ..spec(limits) }).await
}

#[tokio::test]
async fn a_reused_instance_ends_after_max_calls_a_trap_or_a_timeout() {
    let long = Duration::from_mins(1);
    assert_eq!(counts(&reused(2, long).await, 4).await, ["1", "2", "1", "2"]);
    let plugin = reused(100, long).await;
    assert_eq!(counts(&plugin, 3).await, ["1", "2", "3"]);
    assert!(matches!(call(&plugin, "trap", "").await, Err(CallError::Trap { .. })));
    assert_eq!((plugin.ready_instances(), counts(&plugin, 2).await), (0, vec!["1".into(), "2".into()]));
    assert!(matches!(call(&plugin, "spin", "").await, Err(CallError::Timeout { .. })));
    assert_eq!((plugin.ready_instances(), counts(&plugin, 1).await), (0, vec!["1".into()]));
}

#[tokio::test]
async fn a_reused_instance_ends_after_its_idle_time() {
    let (short, long) =
        (reused(100, Duration::from_millis(50)).await, reused(100, Duration::from_mins(1)).await);
    for plugin in [&short, &long] {
        assert_eq!(counts(plugin, 1).await, ["1"]);
    }
    until(|| short.ready_instances() == 0).await;
    assert_eq!((counts(&short, 1).await, counts(&long, 1).await), (vec!["1".into()], vec!["2".into()]));
}
