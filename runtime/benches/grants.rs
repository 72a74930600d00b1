//! The cost of grants: a call of a command that reads a variable, its config and a file, beside the same call of one
//! without grants, in one run, on fresh instances.
//!
//! Both do the same as far as they can: without grants, the command looks for all three and finds none. Their calls
//! alternate, so that other load of the machine affects both; the line after criterion's is the ratio of their medians.

#![allow(missing_docs, clippy::unwrap_used, reason = "a failed setup may panic in a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use samovar_runtime::{
    EngineOptions, EnvGrant, EnvVar, FilesGrant, Format, Grants, Instances, Limits, Mount, MountSource,
    Plugin, PluginSpec,
};
use support::{Node, call_as, guest};
use tokio::runtime::Runtime;

/// As short as the answer without the file, so that the ratio compares grants and not output.
const WORDS: &[u8] = b"one two three four";

/// Calls of each kind for the ratio.
const CALLS: usize = 4000;

fn granted() -> PluginSpec {
    let words = BTreeMap::from([("en".to_owned(), Bytes::from_static(WORDS))]);
    let mount = Mount { path: "/words".to_owned(), source: MountSource::ReadOnly(Arc::new(words)) };
    let locale = EnvVar { name: "LOCALE".to_owned(), value: "en".to_owned() };
    let grants = Grants {
        env: EnvGrant::new(vec![locale]).unwrap(),
        files: FilesGrant::new(&[mount]).unwrap(),
        ..Grants::default()
    };
    let config = serde_json::from_str(r#"{"locale": "en"}"#).unwrap();
    PluginSpec { grants, config: Some(config), ..nothing() }
}

fn nothing() -> PluginSpec {
    let instances = Instances { warm: 2, reuse: None };
    PluginSpec { limits: Limits::default(), instances, ..support::spec() }
}

async fn call(plugin: &Plugin) -> Duration {
    let script = "env\tLOCALE\nenv\tSAMOVAR_CONFIG\nread\t/words/en\n";
    let started = Instant::now();
    call_as(plugin, "run", script, Format::Text).await.unwrap();
    // Runs the refill that this call caused: its cost is part of the call's.
    tokio::task::yield_now().await;
    started.elapsed()
}

/// The median duration of each plugin's calls, which alternate.
fn medians(runtime: &Runtime, plugins: [&Plugin; 2]) -> [Duration; 2] {
    let mut times = plugins.map(|_| Vec::with_capacity(CALLS));
    for _ in 0..CALLS {
        for (plugin, times) in plugins.iter().zip(&mut times) {
            times.push(runtime.block_on(call(plugin)));
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[CALLS / 2]
    })
}

fn grants(criterion: &mut Criterion) {
    let node = Node::new(EngineOptions::default());
    // One thread, so that the refill's time is part of the call's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (form, file) in [("preview1", "files.preview1.wasm"), ("component", "files.wasm")] {
        let module = guest(&format!("tests/guests/files/{file}"));
        let load = |spec| runtime.block_on(node.load(&module, spec)).unwrap();
        let (none, all) = (load(nothing()), load(granted()));
        for (name, plugin) in [("none", &none), ("all", &all)] {
            criterion.bench_function(&format!("grants/{form}/{name}"), |bencher| {
                bencher.to_async(&runtime).iter(|| call(plugin));
            });
        }
        let [without, with] = medians(&runtime, [&none, &all]);
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        println!("grants/{form}: {with:?} with, {without:?} without, medians of {CALLS}: {ratio:.2} x");
    }
}

criterion_group!(benches, grants);
criterion_main!(benches);
