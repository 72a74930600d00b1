//! The node that the runtime's tests and benchmarks load plugins on, and calls to these plugins.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use samovar_runtime::{
    Answer, Artifact, ArtifactCache, Call, CallError, Compiler, Engine, EngineOptions, Format,
    FunctionRequest, Instances, Limits, LoadError, Metering, ModuleDigest, Plugin, PluginSpec,
};
use tempfile::TempDir;

/// An engine, and an artifact cache in a temporary directory, which compiles in this process.
pub struct Node {
    pub engine: Engine,
    pub cache: ArtifactCache,
    options: EngineOptions,
    directory: Arc<TempDir>,
}

impl Node {
    pub fn new(options: EngineOptions) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), options)
    }

    /// A node that may have this many instances at once.
    pub fn with_instances(instances: u32) -> Self {
        Self::new(EngineOptions { instances, ..EngineOptions::default() })
    }

    /// A node with a memory budget.
    pub fn with_memory(bytes: u64) -> Self {
        Self::new(EngineOptions { instances: 50, memory: Some(bytes), ..EngineOptions::default() })
    }

    fn on(directory: Arc<TempDir>, options: EngineOptions) -> Self {
        let engine = Engine::new(&options).unwrap();
        let cache = open(directory.path(), &engine);
        Self { engine, cache, options, directory }
    }

    /// The node after a restart: another engine, the same directory.
    pub fn restarted(&self) -> Self {
        Self::on(Arc::clone(&self.directory), self.options.clone())
    }

    /// Another cache of the same engine and directory, which has loaded nothing yet.
    pub fn reopened(&self) -> ArtifactCache {
        open(self.directory.path(), &self.engine)
    }

    /// The artifacts' directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The artifact of a module, in either format, that counts no fuel.
    pub async fn artifact(&self, module: impl AsRef<[u8]>) -> Artifact {
        self.metered(module, Metering::Off).await
    }

    /// Loads a module, in either format.
    pub async fn load(&self, module: impl AsRef<[u8]>, spec: PluginSpec) -> Result<Plugin, LoadError> {
        let artifact = self.metered(module, spec.metering()).await;
        Plugin::load(&self.engine, &artifact, spec).await
    }

    async fn metered(&self, module: impl AsRef<[u8]>, metering: Metering) -> Artifact {
        let wasm = wat::parse_bytes(module.as_ref()).unwrap().into_owned();
        let (cache, digest) = (self.cache.metered(metering), ModuleDigest::of(&wasm));
        match cache.get(&digest).await {
            Some(artifact) => artifact,
            None => cache.compile(&digest, wasm.into()).await.unwrap(),
        }
    }

    /// The bytes that are reserved of the memory budget.
    pub fn used(&self) -> u64 {
        self.engine.memory().used()
    }
}

fn open(directory: &Path, engine: &Engine) -> ArtifactCache {
    ArtifactCache::open(directory.to_owned(), engine.clone(), Compiler::InProcess).unwrap()
}

/// A module at a path of the project, in either format.
pub fn guest(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// Loads a module on a node of its own.
pub async fn load(module: impl AsRef<[u8]>, spec: PluginSpec) -> Result<Plugin, LoadError> {
    Node::with_instances(20).load(module, spec).await
}

/// A plugin with one warm instance, and time enough for its calls on a busy machine.
pub fn spec() -> PluginSpec {
    PluginSpec {
        name: "test/plugin".to_owned(),
        limits: Limits { timeout: Duration::from_secs(10), ..Limits::default() },
        instances: Instances { warm: 1, reuse: None },
        ..PluginSpec::default()
    }
}

/// A function with no limit of its own.
pub fn function(name: &str) -> FunctionRequest {
    FunctionRequest { name: name.to_owned(), ..FunctionRequest::default() }
}

/// A call with a JSON body.
pub fn json_call(body: impl AsRef<[u8]>) -> Call {
    input(body, Format::Json)
}

fn input(body: impl AsRef<[u8]>, format: Format) -> Call {
    Call { body: Bytes::copy_from_slice(body.as_ref()), format, answer_bytes: false }
}

/// Calls a function with a JSON body.
pub async fn call(plugin: &Plugin, function: &str, body: impl AsRef<[u8]>) -> Result<Answer, CallError> {
    call_as(plugin, function, body, Format::Json).await
}

/// Calls a function with a body in this format.
pub async fn call_as(
    plugin: &Plugin,
    function: &str,
    body: impl AsRef<[u8]>,
    format: Format,
) -> Result<Answer, CallError> {
    let found = plugin.function(function).unwrap_or_else(|| panic!("there is no function {function}"));
    plugin.call(found, input(body, format)).await
}

/// The JSON that a call answers, which must not be an error.
pub async fn json(plugin: &Plugin, function: &str, body: impl AsRef<[u8]>) -> String {
    match call(plugin, function, body.as_ref()).await {
        Ok(answer) => text(&answer),
        Err(error) => panic!("{function} {}: {error}", String::from_utf8_lossy(body.as_ref())),
    }
}

pub fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// Waits until `holds`, for 10 s at most.
pub async fn until(holds: impl Fn() -> bool) {
    let held = async {
        let mut look = tokio::time::interval(Duration::from_millis(1));
        while !holds() {
            look.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), held).await.unwrap();
}
