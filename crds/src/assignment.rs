//! `PluginAssignment`: one revision on one agent. The operator writes its spec, that agent its status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FunctionStatus, PluginTemplate};

/// One revision of a plugin on one agent.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "samovar.dev",
    version = "v1alpha1",
    kind = "PluginAssignment",
    namespaced,
    status = "PluginAssignmentStatus",
    derive = "PartialEq",
    category = "samovar",
    doc = "One revision of a WasmPlugin on one agent. Made by the operator; its status is that agent's report. Not to be edited.",
    selectable = ".spec.nodeName",
    printcolumn(name = "Plugin", type_ = "string", json_path = ".spec.plugin"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".spec.revision"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("an assignment is never edited: the operator replaces it")
)]
pub struct PluginAssignmentSpec {
    /// The node whose agent carries it.
    pub node_name: String,
    /// The agent that carries it.
    pub agent: AgentRef,
    /// The plugin, in the same namespace.
    pub plugin: String,
    /// The revision: the name of a ControllerRevision.
    pub revision: String,
    /// Grows with each new revision of the plugin: of two that are ready, the agent serves the higher.
    pub revision_number: i64,
    /// Which contents of the ConfigMaps and Secrets that `securityPolicy` names: a keyed hash, which tells versions
    /// apart and nothing else. The contents are the operator's to give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
    /// What runs, its image pinned by digest.
    #[serde(flatten)]
    pub template: PluginTemplate,
}

/// One agent: a Pod of the DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRef {
    /// The Pod's name.
    pub pod_name: String,
    /// The Pod's UID: a Pod of the same name that came later is another agent.
    pub pod_uid: String,
}

/// What an agent says of an assignment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginAssignmentStatus {
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// `Ready`: the agent answers calls with this revision.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The functions found in the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub functions: Vec<FunctionStatus>,
    /// The time and space that loading took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_stats: Option<LoadStats>,
    /// Deprecated: replaced by `loadStats`. Kept for one release, since agents of before write it by server-side apply,
    /// and an API server refuses a field that its schema lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("deprecated" = true))]
    pub figures: Option<LoadStats>,
}

/// How far an assignment is on its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum State {
    /// The module is being pulled.
    Pulling,
    /// The module is being compiled, or its artifact read from the cache.
    Compiling,
    /// Its first instances are being made.
    Warming,
    /// Calls are answered.
    Ready,
    /// It cannot be served; the `Ready` condition says why.
    Failed,
}

/// The time and space that loading a revision took on one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadStats {
    /// Milliseconds from the first request to the registry to the last byte; 0 where nothing was pulled.
    pub pull_milliseconds: u32,
    /// Milliseconds of compiling; 0 where the artifact was in the cache.
    pub compile_milliseconds: u32,
    /// Milliseconds of loading the artifact, linking it and making its first instances.
    pub load_milliseconds: u32,
    /// Whether the artifact was in the agent's cache.
    pub cache_hit: bool,
    /// Size of the artifact's compiled code and data, in bytes.
    pub code_bytes: i64,
    /// Instances made ahead when it became ready.
    pub warm_instances: u32,
}
