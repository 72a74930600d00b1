//! `PluginAssignment`: one revision on one agent. The operator writes its spec, and that agent its status.

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
    doc = "Assigns one revision of a WasmPlugin to one node agent. The operator creates it, and the agent reports in its status. Do not edit it.",
    selectable = ".spec.nodeName",
    printcolumn(name = "Plugin", type_ = "string", json_path = ".spec.plugin"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".spec.revision"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("spec is immutable: the operator replaces assignments, and never edits them")
)]
pub struct PluginAssignmentSpec {
    /// The node that the agent runs on.
    pub node_name: String,
    /// The agent that serves the revision.
    pub agent: AgentRef,
    /// The name of the plugin, in the same namespace.
    pub plugin: String,
    /// The name of the revision, which is a ControllerRevision in the same namespace.
    pub revision: String,
    /// Grows with each new revision of the plugin. Of two revisions that are ready, the agent serves the higher number.
    pub revision_number: i64,
    /// The version of the contents of the ConfigMaps and Secrets that `securityPolicy` names: a keyed hash, which tells
    /// versions apart and reveals nothing else. The agent requests the contents from the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
    /// The plugin's template, with its image pinned by digest.
    #[serde(flatten)]
    pub template: PluginTemplate,
}

/// A node agent: a Pod of the DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRef {
    /// The name of the agent's Pod.
    pub pod_name: String,
    /// The UID of the agent's Pod. A later Pod of the same name is another agent.
    pub pod_uid: String,
}

/// The agent's report on an assignment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginAssignmentStatus {
    /// The stage of loading that the agent is at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// `Ready`: the agent serves calls with this revision.
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
    /// Deprecated: use `loadStats`. Kept for one release, since agents of the previous one write this field by
    /// server-side apply, and an API server refuses to apply a field that its schema lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<LoadStats>,
}

/// A stage of loading a revision on an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum State {
    /// The agent pulls the module.
    Pulling,
    /// The agent compiles the module, or reads its artifact from the cache.
    Compiling,
    /// The agent makes the first instances.
    Warming,
    /// The agent serves calls.
    Ready,
    /// The agent cannot serve the revision; the `Ready` condition says why.
    Failed,
}

/// The time and space that loading a revision took on one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadStats {
    /// Milliseconds from the first request to the registry to the last byte; 0 if nothing was pulled.
    pub pull_milliseconds: u32,
    /// Milliseconds of compiling; 0 if the artifact was cached.
    pub compile_milliseconds: u32,
    /// Milliseconds of loading the artifact, linking it and making its first instances.
    pub load_milliseconds: u32,
    /// The artifact came from the agent's cache.
    pub cache_hit: bool,
    /// Size of the artifact's compiled code and data, in bytes.
    pub code_bytes: i64,
    /// Warm instances at the time when the revision became ready.
    pub warm_instances: u32,
}
