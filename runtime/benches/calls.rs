//! The cost of a call beyond wasmtime's own typed call, in one run.
//!
//! `wasmtime/typed` is the floor: the same function on one instance, called synchronously. `scalar/reused` is a call
//! through the gate, JSON in and out, on a reused instance; `scalar/fresh` is the same on a warm instance each time, and
//! waits for the refill that its call causes.

#![allow(missing_docs, clippy::unwrap_used, reason = "a failed setup may panic in a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use samovar_runtime::{
    Call, EngineOptions, Format, Function, Instances, Limits, ModuleDigest, Plugin, PluginSpec, Reuse,
};
use support::{Node, json_call};
use tokio::runtime::Runtime;

const ADD: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;

const ECHO: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "echo") (param i32 i32) (result i64)
        (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))"#;

struct Bench {
    runtime: Runtime,
    node: Node,
}

impl Bench {
    fn new() -> Self {
        // One thread, so that the refill's time is part of the call's.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, node: Node::new(EngineOptions::default()) }
    }

    fn plugin(&self, module: impl AsRef<[u8]>, reuse: bool) -> Plugin {
        let reuse = reuse.then_some(Reuse { max_calls: u32::MAX, idle: Duration::from_mins(1) });
        let instances = Instances { warm: 2, reuse };
        let spec = PluginSpec { limits: Limits::default(), instances, ..support::spec() };
        self.runtime.block_on(self.node.load(module, spec)).unwrap()
    }

    fn calls(&self, criterion: &mut Criterion, name: &str, plugin: &Plugin, function: &str, call: &Call) {
        let refills = name.ends_with("/fresh");
        let function: Arc<Function> = plugin.function(function).unwrap().clone();
        criterion.bench_function(name, |bencher| {
            bencher.to_async(&self.runtime).iter(|| async {
                let answer = plugin.call(&function, call.clone()).await.unwrap();
                if refills {
                    // Runs the refill that this call caused: its cost is part of the call's.
                    tokio::task::yield_now().await;
                }
                answer
            });
        });
    }
}

fn typed(criterion: &mut Criterion) {
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    let engine = wasmtime::Engine::new(&config).unwrap();
    let module = wasmtime::Module::new(&engine, wat::parse_str(ADD).unwrap()).unwrap();
    let mut store = wasmtime::Store::new(&engine, ());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
    let add = instance.get_typed_func::<(i32, i32), i32>(&mut store, "add").unwrap();
    criterion.bench_function("wasmtime/typed", |bencher| {
        bencher.iter(|| add.call(&mut store, std::hint::black_box((2, 3))).unwrap());
    });
}

fn calls(criterion: &mut Criterion) {
    let bench = Bench::new();
    bench.calls(criterion, "scalar/reused", &bench.plugin(ADD, true), "add", &json_call("[2,3]"));
    bench.calls(criterion, "scalar/fresh", &bench.plugin(ADD, false), "add", &json_call("[2,3]"));

    let kibibyte = Call { body: Bytes::from(vec![7; 1024]), format: Format::Bytes, answer_bytes: true };
    bench.calls(criterion, "buffer/1KiB/reused", &bench.plugin(ECHO, true), "echo", &kibibyte);
    bench.calls(criterion, "buffer/1KiB/fresh", &bench.plugin(ECHO, false), "echo", &kibibyte);

    let text = support::guest("examples/text/text.wasm");
    let upper = json_call(r#"{"text": "samovar"}"#);
    bench.calls(criterion, "component/upper/reused", &bench.plugin(&text, true), "upper", &upper);
    bench.calls(criterion, "component/upper/fresh", &bench.plugin(&text, false), "upper", &upper);
}

/// Reads an artifact of about 2 MB from the cache, up to its instantiation.
fn artifacts(criterion: &mut Criterion) {
    let bench = Bench::new();
    let functions = (0..6000).map(|at| {
        format!("(func (export \"f{at}\") (param i64 i64) (result i64) (i64.mul (i64.add (local.get 0) (i64.const {at})) (i64.popcnt (local.get 1))))")
    });
    let wasm = wat::parse_str(format!("(module {})", functions.collect::<String>())).unwrap();
    let digest = ModuleDigest::of(&wasm);
    let bytes = bench.runtime.block_on(bench.node.artifact(&wasm)).code_bytes();
    criterion.bench_function(&format!("artifact/{}KiB/from-cache", bytes >> 10), |bencher| {
        bencher.to_async(&bench.runtime).iter(|| async { bench.node.cache.get(&digest).await.unwrap() });
    });
}

criterion_group!(benches, typed, calls, artifacts);
criterion_main!(benches);
