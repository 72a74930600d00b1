//! Runs a plugin: compile, cache, instantiate, call. Knows no Kubernetes and no registry.
//!
//! An [`Engine`] is made once in a process. An [`ArtifactCache`] turns a module's bytes into an [`Artifact`],
//! compiling each module once. [`Plugin::load`] links an artifact, finds its functions and makes instances
//! ahead of the calls; [`Plugin::call`] runs one function on one of them, within the plugin's limits.

mod abi;
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
