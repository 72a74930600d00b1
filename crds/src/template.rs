//! What runs: the part of a plugin's spec that makes a revision, and that an assignment carries.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Duration, LocalObject, Quantity, SecurityPolicy};

/// Which module runs, which of its functions can be called, and how much it may use.
///
/// A change here makes a new revision.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginTemplate {
    /// The OCI reference of the module, by tag or by digest: `registry.example.com/text:1.2`. A tag is
    /// resolved to a digest once for a revision, so that every node runs the same bytes.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,

    /// When the image is looked up again. `IfNotPresent`: a tag is resolved when the spec changes, and a
    /// node pulls what it does not have. `Always`: the operator also looks every few minutes whether the
    /// tag has moved, and a moved tag is a new revision. `Never`: nothing is pulled; the node must have the
    /// module in its cache, and the image must name a digest. Default: `Always` for the tag `latest` or no
    /// tag, else `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// The path of the module inside the image, where the image holds several: `plugins/text.wasm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("must be a path relative to the image's root, without `..`"))]
    pub module_path: Option<String>,

    /// What kind of plugin this is. `Function`: its functions are called over HTTP, one endpoint each.
    #[serde(default, rename = "type")]
    pub type_: PluginType,

    /// The functions that can be called. Left out: every export that can be called is a function, and
    /// `status.functions` lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub functions: Vec<FunctionSpec>,

    /// What the guest is told: any JSON object. A component reads its top level from `wasi:config/store`, strings as
    /// they are and other values as JSON; a core module has all of it in the environment variable `SAMOVAR_CONFIG`, or
    /// is given it by `plugin_init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub config: Option<serde_json::Map<String, serde_json::Value>>,

    /// What the guests may do beside computing: everything that is not granted here is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_policy: Option<SecurityPolicy>,

    /// How much each call may use. Every limit is enforced on every call.
    #[serde(default)]
    pub limits: Limits,

    /// How many instances are kept ready, and whether one serves more than one call.
    #[serde(default)]
    pub instances: Instances,
}

impl PluginTemplate {
    /// The ConfigMaps and Secrets that it names.
    pub fn objects(&self) -> Vec<LocalObject> {
        self.security_policy.as_ref().map(SecurityPolicy::objects).unwrap_or_default()
    }
}

/// An object of which the API server keeps every field.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

/// What kind of plugin this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PluginType {
    /// Functions, one endpoint each.
    #[default]
    Function,
}

/// When the image is looked up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// A tag is resolved again now and then, even where the spec does not change.
    Always,
    /// A tag is resolved when the spec changes.
    IfNotPresent,
    /// Nothing is pulled.
    Never,
}

/// One callable thing in a plugin.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// The endpoint's name: the last part of the URL's path. A DNS label, unique in the plugin.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("a function's name must be a DNS label: lower-case letters, digits and `-`"))]
    pub name: String,

    /// The module's export that is called: `demo:text/api#upper` for a component's interface, `upper` for
    /// a function at its root or in a core module. Default: the export whose own name is the function's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub export: Option<String>,

    /// How the export is called. `Auto` picks by what the module exports; `status.functions` says what was
    /// picked.
    #[serde(default)]
    pub abi: Abi,

    /// Limits of this function, where they differ from `spec.limits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<FunctionLimits>,
}

/// How an export is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Abi {
    /// Picked by what the module exports.
    #[default]
    Auto,
    /// A component's typed export: JSON to and from WIT values.
    Component,
    /// A program, of WASI preview 1 (`_start`) or of WASI 0.2 (`wasi:cli/run`): the body is its stdin, and its
    /// arguments too where it is a JSON array of strings; stdout is the answer. Its endpoint is `run`.
    Command,
    /// A core export of numbers: numbers in, numbers out.
    Scalar,
    /// A core export `(ptr, len) -> i64` with `memory` and `alloc` or `malloc`, or DataFlare's `process_data`
    /// beside `plugin_init` and `plugin_cleanup`: bytes in, bytes out.
    Buffer,
    /// openEuler WasmEngine's modules: a core export `(ptr, len) -> (ptr, len)` with `memory` and `__heap_base`, or
    /// a program that takes its JSON as `argv[0]`. The latter is never picked by `Auto`.
    WasmEngine,
}

/// How much each call of a plugin may use.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// The most memory that one instance may have, its linear memories and tables together. Past it,
    /// `memory.grow` fails, and a call that ends for that answers 500 `memory-limit`.
    pub memory: Quantity,

    /// How long a call may take, waiting for an instance included. Past it the guest is stopped: 504 `timeout`.
    pub timeout: Duration,

    /// The fuel of a call: each WebAssembly instruction takes about one unit, and the same call always takes as much.
    /// Past it the guest is stopped: 500 `fuel-exhausted`. The answer's header `samovar-fuel` says what a call took.
    /// Left out: no limit, and nothing is counted; counting makes guests slower.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MOST_FUEL))]
    pub fuel: Option<u64>,

    /// Calls that run at once on one node.
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: u32,

    /// Calls that may wait on one node for one of those to end. Past it: 429 `overloaded` with Retry-After.
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: u32,

    /// The largest request body. Past it: 413 `too-large`.
    pub request_bytes: Quantity,

    /// The largest answer, as it is sent. A guest that gives more gets 502 `response-too-large`.
    pub response_bytes: Quantity,

    /// Lines that the plugin may log in a second on one node, over all its calls. What is over is dropped, and one
    /// line says how much that was. 0: nothing is logged.
    #[schemars(range(min = 0, max = 10000))]
    pub log_lines: u32,
}

/// The most that JSON carries exactly, and for ever as good as no limit.
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

/// Limits of one function, where they differ from the plugin's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionLimits {
    /// The most memory of the instance that serves this function, less or more than the plugin's. Instances start
    /// within the plugin's; one that starts with more than a function may have fails the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// How long a call may take, waiting for an instance included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The fuel of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MOST_FUEL))]
    pub fuel: Option<u64>,
    /// Calls of this function that run at once on one node, among the plugin's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: Option<u32>,
    /// Calls of this function that may wait on one node for one of those to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: Option<u32>,
    /// The largest request body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<Quantity>,
    /// The largest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<Quantity>,
}

/// How many instances are kept ready on each node, and whether one serves more than one call.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Instances {
    /// Instances made ahead of the calls on each node. A call past them waits for its instance to be made.
    #[schemars(range(min = 0, max = 1000))]
    pub warm: u32,

    /// Let an instance serve several calls, one after another. Left out: a fresh instance for every call,
    /// so that no call sees what another left behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Reuse>,
}

impl Default for Instances {
    fn default() -> Self {
        Self { warm: 2, reuse: None }
    }
}

/// How long an instance is used again.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reuse {
    /// Calls after which an instance is dropped. A trap or a timeout drops it at once.
    #[serde(default = "Reuse::default_max_calls")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_calls: u32,

    /// How long an instance may wait for its next call before it is dropped.
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
    /// The endpoint's name.
    pub name: String,
    /// How it is called. Left out where it cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abi: Option<Abi>,
    /// Its type, in WIT's words: `func(text: string) -> string`.
    pub signature: String,
    /// Why it cannot be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_callable: Option<String>,
}
