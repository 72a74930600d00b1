//! `WasmPlugin`: what an application developer applies, and what Samovar says of it.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FunctionStatus, PluginTemplate};

/// A WebAssembly plugin: an image, its functions, and how much they may use. Samovar places it on nodes,
/// keeps it warm there, and answers calls at `http://<name>.<namespace>.svc/<function>`.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "samovar.dev",
    version = "v1alpha1",
    kind = "WasmPlugin",
    namespaced,
    status = "WasmPluginStatus",
    derive = "PartialEq",
    cel,
    shortname = "wplug",
    category = "samovar",
    doc = "A WebAssembly plugin: an image, its functions, and how much they may use. Samovar places it on nodes, keeps it warm there, and answers calls at http://NAME.NAMESPACE.svc/FUNCTION.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.nodes.ready"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.nodes.summary"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name becomes a Service's: at most 63 lower-case letters, digits and `-`, the first a letter")
)]
#[x_kube(validation = Rule::new("!has(self.imagePullPolicy) || self.imagePullPolicy != 'Never' || self.image.contains('@sha256:')")
    .message("imagePullPolicy Never needs an image named by digest (…@sha256:…), since nothing is looked up"))]
#[x_kube(validation = Rule::new("self.type != 'Http' || !has(self.functions) || self.functions.size() == 0")
    .message("whole requests go to the guest of a plugin of `type: Http`: leave `functions` out"))]
pub struct WasmPluginSpec {
    /// What runs. A change in it makes a new revision.
    #[serde(flatten)]
    pub template: PluginTemplate,

    /// How many nodes carry the plugin. Left out: every node that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0").message("replicas must be 0 or more; leave it out for every matching node"))]
    pub replicas: Option<i32>,

    /// Labels that a node must have to carry the plugin.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the plugin tolerates, as a Pod does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,

    /// Hold back new revisions: changes of what runs are not rolled out until this is false again. The
    /// revision that serves goes on serving, and scaling goes on working.
    #[serde(default)]
    pub paused: bool,
}

/// What is true of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WasmPluginStatus {
    /// The spec's generation that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The image pinned by digest that the newest revision runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_image: Option<String>,

    /// The newest revision: the name of a ControllerRevision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,

    /// Where callers inside the cluster reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// The functions found in the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub functions: Vec<FunctionStatus>,

    /// How many nodes carry it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// `Ready`: every chosen node answers calls with the newest revision. `Resolved`: the image was found.
    /// `Progressing`: a revision is being rolled out. `Degraded`: a node failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How many nodes carry a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes chosen to carry it.
    pub desired: i32,
    /// Chosen nodes that answer calls with the newest revision.
    pub updated: i32,
    /// Chosen nodes that answer calls, with whatever revision.
    pub ready: i32,
    /// Chosen nodes on which the newest revision failed.
    pub failed: i32,
    /// `updated` of `desired`, for people: `2/3`.
    pub summary: String,
}
