//! `WasmPlugin`: the plugin that an application developer applies, and its status.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FunctionStatus, PluginTemplate};

/// A WebAssembly plugin: an image, its functions, its grants and its limits. Samovar places it on nodes,
/// keeps warm instances there, and serves calls at `http://<name>.<namespace>.svc/<function>`.
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
    doc = "A WebAssembly plugin: an image, its functions, its grants and its limits. Samovar places it on nodes, keeps warm instances there, and serves calls at http://NAME.NAMESPACE.svc/FUNCTION.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.nodes.ready"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.nodes.summary"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name is also that of a Service: at most 63 lower-case letters, digits and `-`, starting with a letter")
)]
#[x_kube(validation = Rule::new("!has(self.imagePullPolicy) || self.imagePullPolicy != 'Never' || self.image.contains('@sha256:')")
    .message("imagePullPolicy Never requires an image by digest (…@sha256:…), since no tag is resolved"))]
#[x_kube(validation = Rule::new("self.type != 'Http' || !has(self.functions) || self.functions.size() == 0")
    .message("a plugin of `type: Http` has no functions, since its guest handles whole requests: leave `functions` out"))]
pub struct WasmPluginSpec {
    /// The template. A change of it makes a new revision.
    #[serde(flatten)]
    pub template: PluginTemplate,

    /// The number of nodes that serve the plugin. Default: all nodes that match `nodeSelector` and `tolerations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0").message("replicas must be 0 or more; leave it out for all matching nodes"))]
    pub replicas: Option<i32>,

    /// Labels that a node must have to serve the plugin.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that the plugin tolerates, as for a Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,

    /// Holds back new revisions until it is false again. The current revision stays in service, and changes of
    /// `replicas`, `nodeSelector` and `tolerations` still take effect.
    #[serde(default)]
    pub paused: bool,
}

/// The observed state of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WasmPluginStatus {
    /// The generation of the spec that this status reflects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The image of the newest revision, pinned by digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_image: Option<String>,

    /// The name of the newest revision, which is a ControllerRevision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,

    /// The URL of the plugin inside the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// The functions found in the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub functions: Vec<FunctionStatus>,

    /// The numbers of nodes that should serve the plugin, and that do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// `Ready`: all chosen nodes serve calls with the newest revision. `Resolved`: the image is resolved to a digest.
    /// `Progressing`: a revision is being rolled out. `Degraded`: the image, a node or the Service failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The numbers of nodes that should serve a plugin, and that do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that should serve the plugin.
    pub desired: i32,
    /// Chosen nodes that serve calls with the newest revision.
    pub updated: i32,
    /// Chosen nodes that serve calls, with any revision.
    pub ready: i32,
    /// Chosen nodes on which the newest revision failed.
    pub failed: i32,
    /// `updated` of `desired`, as `kubectl get` prints it: `2/3`.
    pub summary: String,
}
