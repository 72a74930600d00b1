//! The template of a plugin: the part of its spec that a revision keeps and an assignment carries.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Duration, LocalObject, Quantity, SecurityPolicy};

/// The module of a plugin, its functions, its grants and its limits.
///
/// A change of the template makes a new revision.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginTemplate {
    /// The OCI reference of the module, by tag or by digest: `registry.example.com/text:1.2`. A tag is
    /// resolved to a digest once for each revision, so that all nodes run the same bytes.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,

    /// The pull policy of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// The path of the module inside an image that holds several: `plugins/text.wasm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("must be a path relative to the image's root, without `..`"))]
    pub module_path: Option<String>,

    /// The type of the plugin. `Function`: each function has an HTTP endpoint of its own. `Http`: the guest handles
    /// whole HTTP requests, as a component that exports `wasi:http/incoming-handler` 0.2 or `wasi:http/handler` 0.3.
    #[serde(default, rename = "type")]
    pub type_: PluginType,

    /// The functions of the plugin. Default: every callable export of the module; `status.functions` lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub functions: Vec<FunctionSpec>,

    /// The guest's configuration: any JSON object. A component reads its top-level keys from `wasi:config/store`,
    /// strings as they are and other values as JSON. A core module gets the whole object in the environment variable
    /// `SAMOVAR_CONFIG`, or as an argument of `plugin_init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub config: Option<serde_json::Map<String, serde_json::Value>>,

    /// The grants of the guests: everything that is not granted is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_policy: Option<SecurityPolicy>,

    /// The limits of the plugin, all of which are enforced on every call.
    #[serde(default)]
    pub limits: Limits,

    /// The warm instances on each node, and their reuse.
    #[serde(default)]
    pub instances: Instances,
}

impl PluginTemplate {
    /// The ConfigMaps and Secrets that the template names.
    pub fn objects(&self) -> Vec<LocalObject> {
        self.security_policy.as_ref().map(SecurityPolicy::objects).unwrap_or_default()
    }
}

/// The schema of an object with any fields, all of which the API server keeps.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

/// The type of a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PluginType {
    /// Each function has an HTTP endpoint of its own.
    #[default]
    Function,
    /// The guest handles whole HTTP requests.
    Http,
}

/// When the operator resolves a tag, and whether agents pull. `IfNotPresent`: the operator resolves a tag when the spec
/// changes, and an agent pulls a module that it has not cached. `Always`: the operator also resolves the tag every few
/// minutes, and a moved tag makes a new revision. `Never`: nothing is pulled; the module must be in the agent's cache,
/// and the image must name a digest. Default: `Always` for the tag `latest` or no tag, else `IfNotPresent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// The operator also resolves a tag every few minutes, without a change of the spec.
    Always,
    /// The operator resolves a tag when the spec changes.
    IfNotPresent,
    /// Nothing is pulled.
    Never,
}

/// A function: one callable export of the module, with an endpoint of its own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// The function's name, which is the last segment of its URL. A DNS label, unique in the plugin.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("a function's name must be a DNS label: lower-case letters, digits and `-`"))]
    pub name: String,

    /// The export of the module: `demo:text/api#upper` in an interface of a component, `upper` at a component's root or
    /// in a core module. Default: the export whose name, without its interface, is the function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub export: Option<String>,

    /// The ABI by which the host calls the export. `Auto` selects it by the module's exports, and `status.functions`
    /// shows the selected one.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self != 'Http'")
        .message("the ABI Http is for whole requests and not for functions: set the plugin's `type: Http`, and leave `functions` out"))]
    pub abi: Abi,

    /// Limits of this function that differ from `spec.limits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<FunctionLimits>,
}

/// The ABI by which the host calls an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Abi {
    /// Selected by the module's exports.
    #[default]
    Auto,
    /// A component's typed export: JSON to and from WIT values.
    Component,
    /// A component's handler of HTTP requests: for plugins of `type: Http`, and not for functions.
    Http,
    /// A command of WASI preview 1 (`_start`) or WASI 0.2 (`wasi:cli/run`). The request body is its stdin, and also its
    /// arguments if it is a JSON array of strings; its stdout is the response. Its endpoint is `run`.
    Command,
    /// A core export whose parameters and results are numbers.
    Scalar,
    /// A core export `(ptr, len) -> i64` beside `memory` and `alloc` or `malloc`, or DataFlare's `process_data`
    /// beside `plugin_init` and `plugin_cleanup`: bytes in, bytes out.
    Buffer,
    /// openEuler WasmEngine's modules: a core export `(ptr, len) -> (ptr, len)` beside `memory` and `__heap_base`, or
    /// a command that reads its JSON from `argv[0]`. `Auto` never selects the latter.
    WasmEngine,
}

/// The limits of a plugin.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// The memory of one instance, its linear memories and tables together. Beyond it `memory.grow` fails, and a call
    /// that fails for that reason gets 500 `memory-limit`.
    pub memory: Quantity,

    /// The duration of a call, including its wait for an instance. After it the guest is interrupted: 504 `timeout`.
    pub timeout: Duration,

    /// The fuel of a call. Each WebAssembly instruction consumes about one unit, and the same call always consumes
    /// the same amount. When it is spent, the guest is interrupted: 500 `fuel-exhausted`. The response header
    /// `samovar-fuel` has the fuel that the call consumed. Default: no limit and no metering, since metering makes
    /// guests slower.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MOST_FUEL))]
    pub fuel: Option<u64>,

    /// Concurrent calls on one node.
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: u32,

    /// Calls that wait on one node until a running call ends. Further calls get 429 `overloaded` with Retry-After.
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: u32,

    /// The largest request body. A larger one gets 413 `too-large`.
    pub request_bytes: Quantity,

    /// The largest response, as it is sent. A larger one is replaced by 502 `response-too-large`.
    pub response_bytes: Quantity,

    /// Log lines of the plugin per second on one node, over all its calls. Further lines are dropped, and one line
    /// tells their number. 0: nothing is logged.
    #[schemars(range(min = 0, max = 10000))]
    pub log_lines: u32,
}

/// The largest integer that JSON carries exactly, and as good as no limit.
const MOST_FUEL: u64 = 1 << 53;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Quantity::from_mebibytes(64),
            timeout: Duration::from_millis(1000),
            fuel: None,
            concurrency: 64,
            queue: 256,
            request_bytes: Quantity::from_mebibytes(1),
            response_bytes: Quantity::from_mebibytes(4),
            log_lines: 100,
        }
    }
}

/// Limits of one function that differ from the plugin's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionLimits {
    /// The memory of an instance that serves this function, below or above the plugin's limit. Instances start within
    /// the plugin's limit; the revision fails if they start with more than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// The duration of a call, including its wait for an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The fuel of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MOST_FUEL))]
    pub fuel: Option<u64>,
    /// Concurrent calls of this function on one node, which count against the plugin's limit too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: Option<u32>,
    /// Calls of this function that wait on one node until a running call of it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: Option<u32>,
    /// The largest request body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<Quantity>,
    /// The largest response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<Quantity>,
}

/// The warm instances on each node, and their reuse.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Instances {
    /// Warm instances on each node, made ahead of calls. A call that finds none waits until its instance is made.
    #[schemars(range(min = 0, max = 1000))]
    pub warm: u32,

    /// Lets an instance serve several calls, one after another. Default: a fresh instance for each call, so
    /// that no call sees the state that another left behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Reuse>,
}

impl Default for Instances {
    fn default() -> Self {
        Self { warm: 2, reuse: None }
    }
}

/// Bounds on the reuse of an instance.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reuse {
    /// Calls after which an instance is dropped. A trap or a timeout drops it at once.
    #[serde(default = "Reuse::default_max_calls")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_calls: u32,

    /// The time without a call after which an instance is dropped.
    #[serde(default = "Reuse::default_idle")]
    pub idle: Duration,
}

impl Reuse {
    fn default_max_calls() -> u32 {
        1000
    }

    fn default_idle() -> Duration {
        Duration::from_millis(30_000)
    }
}

/// A function as the agent found it in the module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    /// The function's name.
    pub name: String,
    /// The ABI by which the host calls it. Absent if it is not callable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abi: Option<Abi>,
    /// Its type in WIT: `func(text: string) -> string`.
    pub signature: String,
    /// The reason why it is not callable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_callable: Option<String>,
}
