//! Loading a module's bytes as a plugin, on an engine of the test's own, and waiting for what it does.

#![allow(dead_code, reason = "each test program takes what it needs of this")]

use std::{path::Path, time::Duration};

use samovar_runtime::{
    Artifact, ArtifactCache, Compiler, Engine, EngineOptions, LoadError, ModuleDigest, Plugin, PluginSpec,
};

/// A module at a path of the project, in either format.
pub fn guest(path: &str) -> Vec<u8> {
    wat::parse_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// Compiles a module.
pub async fn compile(wasm: Vec<u8>) -> (Engine, Artifact) {
    let engine = Engine::new(&EngineOptions { instances: 20, ..EngineOptions::default() }).unwrap();
    let artifact = compile_on(&engine, wasm).await;
    (engine, artifact)
}

/// Compiles a module for that engine.
pub async fn compile_on(engine: &Engine, wasm: Vec<u8>) -> Artifact {
    let directory = tempfile::tempdir().unwrap();
    let cache =
        ArtifactCache::open(directory.path().to_owned(), engine.clone(), Compiler::InProcess).unwrap();
    cache.compile(&ModuleDigest::of(&wasm), wasm.into()).await.unwrap()
}

/// Compiles and loads it.
pub async fn load(wasm: Vec<u8>, spec: PluginSpec) -> Result<Plugin, LoadError> {
    let (engine, artifact) = compile(wasm).await;
    Plugin::load(&engine, &artifact, spec).await
}

/// Waits until it holds.
pub async fn until(holds: impl Fn() -> bool) {
    let held = async {
        let mut look = tokio::time::interval(Duration::from_millis(1));
        while !holds() {
            look.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), held).await.unwrap();
}
