//! Runs a plugin: compile, cache, instantiate, call. Knows no Kubernetes and no registry.
//!
//! An [`Engine`] is created once per process. An [`ArtifactCache`] compiles a module's bytes to an [`Artifact`],
//! each module once. [`Plugin::load`] links an artifact, finds its functions and creates warm instances;
//! [`Plugin::call`] runs one function on one of them, within the plugin's limits.
//!
//! ```
//! use samovar_runtime::{
//!     ArtifactCache, Call, Compiler, Engine, EngineOptions, Format, ModuleDigest, Plugin, PluginSpec,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let wasm = wat::parse_str(
//!     r#"(module
//!         (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#,
//! )?;
//!
//! let engine = Engine::new(&EngineOptions { instances: 10, ..EngineOptions::default() })?;
//! let directory = tempfile::tempdir()?;
//! let cache = ArtifactCache::open(directory.path().to_owned(), engine.clone(), Compiler::InProcess)?;
//! let artifact = cache.compile(&ModuleDigest::of(&wasm), wasm.into()).await?;
//!
//! let spec = PluginSpec { name: "demo/math".to_owned(), ..PluginSpec::default() };
//! let plugin = Plugin::load(&engine, &artifact, spec).await?;
//! let add = plugin.function("add").expect("every callable export is a function by default");
//! let call = Call { body: "[2, 3]".into(), format: Format::Json, answer_bytes: false };
//! let answer = plugin.call(add, call).await?;
//! assert_eq!(answer.body, "5");
//! # Ok(())
//! # }
//! ```

mod abi;
pub mod atomic_file;
mod call;
mod compile;
mod config;
mod engine;
mod exports;
mod functions;
mod gate;
mod grants;
mod host;
mod http;
mod inspect;
mod instance;
mod memory;
mod output;
mod plugin;
mod pool;
mod printable;
mod spec;
pub mod wit;

pub use abi::Abi;
pub use call::{Answer, Call, CallError, Format, Timing};
pub use compile::cache::{ArtifactCache, ArtifactFile, CacheError, Compiled};
pub use compile::{CompileError, CompileLimits, Compiler, compile_child};
pub use engine::artifact::Artifact;
pub use engine::build::{DigestError, Kind, Metering, ModuleDigest};
pub use engine::{Engine, EngineError, EngineOptions};
pub use functions::Function;
pub use grants::{
    EnvGrant, EnvVar, FilesGrant, Grants, InvalidEnv, InvalidHost, InvalidMount, Mount, MountSource,
    NetworkGrant, NetworkOptions,
};
pub use http::{Admission, BrokenOff, ResponseBody};
pub use inspect::{Import, Inspection};
pub use ipnet::IpNet;
pub use memory::budget::{MemoryBudget, NoMemory, Reservation};
pub use plugin::Plugin;
pub use spec::{FunctionRequest, Instances, Limits, LoadError, PluginSpec, Reuse};
