//! What grants cost: a call of a program that reads a variable, its config and a file, beside the same call of one that
//! is granted nothing, in one run, on fresh instances.
//!
//! Both make the same WASI calls as far as they can: what is not granted is not found.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say but where"
)]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use samovar_runtime::{
    ArtifactCache, Call, Compiler, Engine, EngineOptions, EnvGrant, EnvVar, FilesGrant, Format, Grants,
    Instances, ModuleDigest, Mount, MountSource, Plugin, PluginSpec,
};

fn granted() -> (Grants, serde_json::Map<String, serde_json::Value>) {
    let words = BTreeMap::from([("en".to_owned(), Bytes::from(vec![b'x'; 1024]))]);
    let mount = Mount { path: "/words".to_owned(), source: MountSource::ReadOnly(Arc::new(words)) };
    let locale = EnvVar { name: "LOCALE".to_owned(), value: "en".to_owned() };
    let grants = Grants {
        env: EnvGrant::new(vec![locale]).unwrap(),
        files: FilesGrant::new(&[mount]).unwrap(),
        ..Grants::default()
    };
    (grants, serde_json::from_str(r#"{"locale": "en"}"#).unwrap())
}

fn grants(criterion: &mut Criterion) {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cache =
        ArtifactCache::open(directory.path().to_owned(), engine.clone(), Compiler::InProcess).unwrap();
    // One worker, so that the refill's time is the call's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (form, file) in [("preview1", "files.preview1.wasm"), ("component", "files.wasm")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/files").join(file);
        let wasm = Bytes::from(std::fs::read(path).unwrap());
        let artifact = runtime.block_on(cache.compile(&ModuleDigest::of(&wasm), wasm)).unwrap();
        for (name, (grants, config)) in [
            ("none", (Grants::default(), None)),
            ("all", {
                let (grants, config) = granted();
                (grants, Some(config))
            }),
        ] {
            let spec = PluginSpec {
                name: "bench/plugin".to_owned(),
                instances: Instances { warm: 2, reuse: None },
                grants,
                config,
                ..PluginSpec::default()
            };
            let plugin = runtime.block_on(Plugin::load(&engine, &artifact, spec)).unwrap();
            let body = Bytes::from_static(b"env\tLOCALE\nenv\tSAMOVAR_CONFIG\nread\t/words/en\n");
            let call = Call { body, format: Format::Text, answer_bytes: false };
            let function = plugin.function("run").unwrap().clone();
            criterion.bench_function(&format!("grants/{form}/{name}"), |bencher| {
                bencher.to_async(&runtime).iter(|| async {
                    let answer = plugin.call(&function, call.clone()).await.unwrap();
                    // Lets the refill that this call caused run now: its cost is part of the call's.
                    tokio::task::yield_now().await;
                    answer
                });
            });
        }
    }
}

criterion_group!(benches, grants);
criterion_main!(benches);
