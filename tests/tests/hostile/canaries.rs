//! Isolation of instances: guests mark all that they can reach, and look for the marks of others.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use samovar_runtime::{
    ArtifactCache, Call, CallError, Compiler, Engine, EngineOptions, FilesGrant, Format, Grants, Instances,
    Limits, ModuleDigest, Mount, MountSource, Plugin, PluginSpec, Reuse,
};
use samovar_testbed::scratch;

use crate::{count, numbers::Numbers};

/// Instances that may exist: fewer than the concurrent calls, so that another plugin reuses each slot at once.
const SLOTS: u32 = 5;
const AT_ONCE: usize = 6;
/// The timeout of a guest that never ends.
const TIMEOUT: Duration = Duration::from_millis(20);

const IMPORT: &str = r#"
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"#;
/// Opens the file named `m` in the first granted folder: it must not exist, and is then created.
const FILE: &str = r"
            (i32.store8 (i32.const 8) (i32.const 0x6d))
            (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 0)
                  (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 16)))
              (then (return (i64.const -3))))
            (if (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 1)
                  (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16))
              (then (return (i64.const -4))))";

/// A core module whose mark is this byte. `mark` reads all that it was given: its memory beyond its own data, the pages
/// that it grows by, a global, a table, its locals, the stack of its calls. It returns a value that should not be there,
/// or 0, and leaves its mark everywhere. `mark-and-trap` then traps, `mark-and-spin` never ends. With `files`, it looks
/// for a file too, and leaves one.
fn module(mark: u8, pages: u32, files: bool) -> String {
    let (import, file) = if files { (IMPORT, FILE) } else { ("", "") };
    let data = format!("\\{mark:02x}").repeat(8);
    format!(
        r#"(module {import}
          (memory (export "memory") {pages})
          (data (i32.const 0) "{data}")
          (table $table 32 funcref)
          (elem declare func $mark)
          (global $global (mut i64) (i64.const 0))
          (func $look (param $at i32) (param $end i32) (result i64) (local $found i64)
            (loop $next
              (if (i64.ne (local.tee $found (i64.load (local.get $at))) (i64.const 0)) (then (return (local.get $found))))
              (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end))))
            (i64.const 0))
          (func $deep (param $levels i32) (result i64) (local $a i64) (local $b i64) (local $c i64) (local $found i64)
            (local.set $found (i64.or (local.get $a) (i64.or (local.get $b) (local.get $c))))
            (local.set $a (i64.load (i32.const 0)))
            (local.set $b (local.get $a))
            (local.set $c (local.get $b))
            (if (local.get $levels)
              (then (local.set $found
                (i64.or (local.get $found) (call $deep (i32.sub (local.get $levels) (i32.const 1)))))))
            (i64.and (local.get $found) (i64.or (local.get $a) (i64.or (local.get $b) (local.get $c)))))
          (func $mark (export "mark") (result i64) (local $found i64) (local $at i32) (local $end i32)
            (if (i64.ne (i64.load (i32.const 0)) (i64.mul (i64.const {mark}) (i64.const 0x0101010101010101)))
              (then (return (i64.const -1))))
            (local.set $found (call $look (i32.const 8) (i32.const {pages_bytes})))
            (local.set $at (i32.shl (memory.grow (i32.const 2)) (i32.const 16)))
            (local.set $end (i32.add (local.get $at) (i32.const 131072)))
            (local.set $found (i64.or (local.get $found) (call $look (local.get $at) (local.get $end))))
            (local.set $found (i64.or (local.get $found) (global.get $global)))
            (local.set $found (i64.or (local.get $found) (call $deep (i32.const 100))))
            (local.set $at (i32.const 0))
            (loop $next
              (if (i32.eqz (ref.is_null (table.get $table (local.get $at)))) (then (return (i64.const -2))))
              (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 32))))
            {file}
            (memory.fill (i32.const 0) (i32.const {mark}) (local.get $end))
            (global.set $global (i64.load (i32.const 0)))
            (table.fill $table (i32.const 0) (ref.func $mark) (i32.const 32))
            (local.get $found))
          (func $trap (export "mark-and-trap") (result i64) (local $found i64)
            (if (i64.eqz (local.tee $found (call $mark))) (then unreachable))
            (local.get $found))
          (func $spin (export "mark-and-spin") (result i64) (local $found i64)
            (if (i64.eqz (local.tee $found (call $mark))) (then (loop $forever (br $forever))))
            (local.get $found)))"#,
        pages_bytes = pages << 16
    )
}

/// The same inside a component.
fn component(mark: u8, pages: u32) -> String {
    let core = module(mark, pages, false);
    let mut text = format!(
        "(component (core module $m {}\n(core instance $i (instantiate $m))",
        &core["(module ".len()..]
    );
    for name in ["mark", "mark-and-trap", "mark-and-spin"] {
        write!(text, "\n(func (export \"{name}\") (result s64) (canon lift (core func $i \"{name}\")))")
            .unwrap();
    }
    text + ")"
}

async fn load(
    engine: &Engine,
    cache: &ArtifactCache,
    name: String,
    text: String,
    reuse: Option<Reuse>,
) -> Plugin {
    let wasm = wat::parse_str(text).unwrap();
    let artifact = cache.compile(&ModuleDigest::of(&wasm), wasm.into()).await.unwrap();
    let scratch = Mount { path: "/tmp".to_owned(), source: MountSource::Scratch { size_limit: 4096 } };
    let spec = PluginSpec {
        name,
        limits: Limits { timeout: TIMEOUT, ..Limits::default() },
        instances: Instances { warm: 0, reuse },
        grants: Grants { files: FilesGrant::new(&[scratch]).unwrap(), ..Grants::default() },
        ..PluginSpec::default()
    };
    Plugin::load(engine, &artifact, spec).await.unwrap()
}

fn nothing() -> Call {
    Call { body: Bytes::new(), format: Format::Json, answer_bytes: false }
}

#[tokio::test]
async fn a_guest_finds_its_own_marks_in_a_reused_instance() {
    let engine = Engine::new(&EngineOptions { instances: 2, ..EngineOptions::default() }).unwrap();
    let directory = scratch().join("hostile-canaries-found");
    let cache = ArtifactCache::open(directory, engine.clone(), Compiler::InProcess).unwrap();
    for text in [module(0x55, 1, false), component(0x66, 2)] {
        // A reused instance finds its own marks, so it would find those of another.
        let reuse = Some(Reuse { max_calls: 2, idle: Duration::from_mins(1) });
        let plugin = load(&engine, &cache, "found".to_owned(), text, reuse).await;
        let mark = plugin.function("mark").unwrap();
        assert_eq!(plugin.call(mark, nothing()).await.unwrap().body, "0");
        assert_ne!(plugin.call(mark, nothing()).await.unwrap().body, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_guest_finds_the_marks_of_another() {
    let calls = count("SAMOVAR_HOSTILE_CALLS", 100_000);
    let engine = Engine::new(&EngineOptions { instances: SLOTS, ..EngineOptions::default() }).unwrap();
    let directory = scratch().join("hostile-canaries");
    let cache = ArtifactCache::open(directory, engine.clone(), Compiler::InProcess).unwrap();
    let mut plugins = Vec::new();
    for (mark, pages) in [(0x11, 1), (0x22, 1), (0x33, 2), (0x44, 3)] {
        for (name, files) in [("core", false), ("files", true)] {
            let name = format!("{name}-{mark:x}");
            plugins.push(load(&engine, &cache, name, module(mark, pages, files), None).await);
        }
        plugins.push(
            load(&engine, &cache, format!("component-{mark:x}"), component(mark + 1, pages), None).await,
        );
    }
    let plugins = Arc::new(plugins);
    let call = |seed| {
        let plugins = Arc::clone(&plugins);
        tokio::spawn(async move {
            let mut numbers = Numbers::of(seed);
            let plugin = numbers.one_of(&plugins);
            let name = match numbers.below(1000) {
                0 => "mark-and-spin",
                1..200 => "mark-and-trap",
                _ => "mark",
            };
            let function = plugin.function(name).unwrap();
            loop {
                return match (name, plugin.call(function, nothing()).await) {
                    // All slots are taken: another call runs first.
                    (_, Err(CallError::AgentFull)) => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    ("mark", Ok(answer)) if answer.body == "0" => Ok(true),
                    ("mark-and-trap", Err(CallError::Trap { .. })) => Ok(true),
                    // On a busy machine any call may time out; its marks stay all the same.
                    (_, Err(CallError::Timeout { .. })) => Ok(name == "mark-and-spin"),
                    (_, other) => Err(format!("call {seed}, {name}: {other:?}")),
                };
            }
        })
    };
    let (mut looked, mut found) = (0_u64, Vec::new());
    let mut ended = stream::iter((0..calls).map(call)).buffer_unordered(AT_ONCE);
    while let Some(ended) = ended.next().await {
        match ended.unwrap() {
            Ok(whole) => looked += u64::from(whole),
            Err(why) => found.push(why),
        }
    }
    println!("{looked} of {calls} calls looked everywhere, {} found a mark", found.len());
    assert!(found.is_empty(), "{}", found[..found.len().min(10)].join("\n"));
    assert!(looked > calls * 9 / 10, "{looked} of {calls} calls ran to their end");
}
