//! The specification of a plugin: its functions, limits, instances and grants, and why one cannot be loaded.

use std::time::Duration;

use crate::{Abi, EngineError, Grants, Metering};

/// The specification of a plugin.
#[derive(Clone, Debug, Default)]
pub struct PluginSpec {
    /// The plugin's name in its guests' log lines: `demo/text`.
    pub name: String,
    /// The functions that can be called; if empty, every callable export.
    pub functions: Vec<FunctionRequest>,
    /// The limits of each call.
    pub limits: Limits,
    /// The instances that are kept between calls.
    pub instances: Instances,
    /// The configuration that its guests read: any JSON object.
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
    /// The capabilities of its guests beyond computing.
    pub grants: Grants,
    /// Hands whole requests to the guest; there are no functions then.
    pub http: bool,
}

impl PluginSpec {
    /// The metering that the module must be compiled with: fuel is counted only if a limit asks for it.
    pub fn metering(&self) -> Metering {
        let any = self.limits.fuel.is_some() || self.functions.iter().any(|function| function.fuel.is_some());
        if any { Metering::Fuel } else { Metering::Off }
    }
}

/// One function of a spec. Limits that are left out are the plugin's.
#[derive(Clone, Debug, Default)]
pub struct FunctionRequest {
    /// The name of its endpoint.
    pub name: String,
    /// The export that it calls; by default the one with the function's name.
    pub export: Option<String>,
    /// The ABI of the export; by default derived from the export's type.
    pub abi: Option<Abi>,
    /// Overrides the plugin's `memory`.
    pub memory: Option<u64>,
    /// Overrides the plugin's `timeout`.
    pub timeout: Option<Duration>,
    /// Overrides the plugin's `fuel`.
    pub fuel: Option<u64>,
    /// Concurrent calls of this function, within the plugin's `concurrency`.
    pub concurrency: Option<u32>,
    /// Calls that may wait for one of those to end; by default the plugin's `queue`.
    pub queue: Option<u32>,
    /// Overrides the plugin's `request_bytes`.
    pub request_bytes: Option<u64>,
    /// Overrides the plugin's `response_bytes`.
    pub response_bytes: Option<u64>,
}

/// The limits of each call.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most memory of one instance, in bytes: linear memories and tables together.
    pub memory: u64,
    /// The deadline of a call, including its wait for an instance.
    pub timeout: Duration,
    /// The fuel of a call; `None`: unlimited, and not counted.
    pub fuel: Option<u64>,
    /// Concurrent calls.
    pub concurrency: u32,
    /// Calls that may wait.
    pub queue: u32,
    /// The largest request body, in bytes.
    pub request_bytes: u64,
    /// The largest answer, in bytes.
    pub response_bytes: u64,
    /// Lines per second that the plugin may log.
    pub log_lines: u32,
}

/// The defaults of a plugin's spec.
impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            timeout: Duration::from_secs(1),
            fuel: None,
            concurrency: 64,
            queue: 256,
            request_bytes: 1 << 20,
            response_bytes: 4 << 20,
            log_lines: 100,
        }
    }
}

/// The instances that are kept between calls, and their reuse.
#[derive(Clone, Debug, Default)]
pub struct Instances {
    /// Warm instances to keep ready.
    pub warm: u32,
    /// The reuse of an instance after its call; `None`: each call has a fresh one.
    pub reuse: Option<Reuse>,
}

/// The bounds on an instance's reuse.
#[derive(Clone, Debug)]
pub struct Reuse {
    /// Calls after which it is dropped.
    pub max_calls: u32,
    /// The longest that it may wait for its next call.
    pub idle: Duration,
}

/// The reasons why a plugin cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The module has no such export, or its type fits no ABI.
    #[error("{0}")]
    ExportNotFound(String),
    /// The module imports something that is not granted.
    #[error("{0}")]
    ImportNotGranted(String),
    /// Its start or `_initialize` function failed.
    #[error("the module does not start: {0}")]
    Init(String),
    /// The engine variant that its code needs could not be created.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is no room for its first instance.
    #[error("there is no room for another instance on this node")]
    AgentFull,
    /// The memory budget has nothing left for its first instance.
    #[error(
        "this node has no memory left for its first instance; loading is retried, and succeeds once other plugins use less memory or the agent has more"
    )]
    NodeMemory,
}
