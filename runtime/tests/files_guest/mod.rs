//! The guest that does with files what it is told, and what it is granted.

#![allow(dead_code, reason = "each test program takes what it needs of this")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use samovar_runtime::{
    Artifact, ArtifactCache, Call, CallError, Compiler, Engine, EngineOptions, FilesGrant, Format, Grants,
    Instances, Limits, ModuleDigest, Mount, MountSource, Plugin, PluginSpec,
};

/// It, as a core module of preview 1 and as a component of WASI 0.2.
pub const GUESTS: [&str; 2] = ["tests/guests/files/files.preview1.wasm", "tests/guests/files/files.wasm"];

pub const KIB: u64 = 1 << 10;

pub fn words(path: &str, files: &[(&str, &str)]) -> Mount {
    let file =
        |&(name, content): &(&str, &str)| (name.to_owned(), Bytes::copy_from_slice(content.as_bytes()));
    let files: BTreeMap<_, _> = files.iter().map(file).collect();
    Mount { path: path.to_owned(), source: MountSource::ReadOnly(Arc::new(files)) }
}

pub fn scratch(path: &str, size_limit: u64) -> Mount {
    Mount { path: path.to_owned(), source: MountSource::Scratch { size_limit } }
}

pub fn files(mounts: &[Mount]) -> FilesGrant {
    FilesGrant::new(mounts).unwrap()
}

pub fn spec(mounts: &[Mount]) -> PluginSpec {
    PluginSpec {
        name: "test/files".to_owned(),
        limits: Limits { timeout: Duration::from_secs(20), ..Limits::default() },
        instances: Instances { warm: 1, reuse: None },
        grants: Grants { files: files(mounts), ..Grants::default() },
        ..PluginSpec::default()
    }
}

/// One call: what each line answers.
pub async fn run(plugin: &Plugin, script: &[&str]) -> Result<Vec<String>, CallError> {
    let body = script.join("\n").into();
    let call = Call { body, format: Format::Text, answer_bytes: false };
    let answer = plugin.call(plugin.function("run").unwrap(), call).await?;
    Ok(String::from_utf8(answer.body.to_vec()).unwrap().lines().map(str::to_owned).collect())
}

/// Compiles a module for an engine with so much memory.
pub async fn compile_within(wasm: Vec<u8>, memory: u64) -> (Engine, Artifact) {
    let options = EngineOptions { instances: 4, memory: Some(memory), ..EngineOptions::default() };
    let engine = Engine::new(&options).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cache =
        ArtifactCache::open(directory.path().to_owned(), engine.clone(), Compiler::InProcess).unwrap();
    let artifact = cache.compile(&ModuleDigest::of(&wasm), wasm.into()).await.unwrap();
    (engine, artifact)
}
