//! `securityPolicy`: the grants of a plugin's guests. Everything else is denied.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// The grants of the plugin's guests: network, files and environment. Everything that is not granted is denied.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityPolicy {
    /// The hosts that the guests may reach. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkAccess>,

    /// The folders in the guests' file system. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    #[x_kube(validation = Rule::new("self.all(outer, !self.exists(inner, inner.path.startsWith(outer.path + '/')))")
        .message("no path may be inside another"))]
    pub files: Vec<FileGrant>,

    /// The environment variables of the guests. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
}

/// The hosts that the guests may reach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAccess {
    /// Each entry is a DNS name, `*.` and a DNS name for all names below that, an IP address or a CIDR. With `:port` it
    /// allows that port alone. A name that resolves to a private address is refused unless the list has that address
    /// too.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 261)), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("self.all(host, host.matches('^[a-z0-9.:/*_\\\\[\\\\]-]+$') && !host.contains('//'))")
        .message("a host is a name in lower case such as api.example.com, *.example.com or api.example.com:443, an IP address or a CIDR; no scheme and no path"))]
    pub allowed_hosts: Vec<String>,
}

/// A folder in the guests' file system.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.configMap), has(self.secret), has(self.scratch)].exists_one(given, given)")
    .message("exactly one of configMap, secret and scratch must be set"))]
#[x_kube(validation = Rule::new("!has(self.readOnly) || self.readOnly != has(self.scratch)")
    .message("readOnly must be true for configMap and secret, and false for scratch; it can be left out"))]
pub struct FileGrant {
    /// The folder's absolute path in the guest's file system, such as `/words`.
    #[schemars(length(min = 2, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9._-]+)+$') && !self.split('/').exists(part, part == '.' || part == '..')")
        .message("must be an absolute path of letters, digits, `.`, `_` and `-`, without `..` and without a trailing `/`"))]
    pub path: String,

    /// True for a ConfigMap or a Secret, false for scratch: it can be left out, and any other value is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,

    /// A ConfigMap in the plugin's namespace: one file for each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ObjectSource>,

    /// A Secret in the plugin's namespace: one file for each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectSource>,

    /// A writable folder: empty in each new instance, and dropped with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
}

/// A ConfigMap or a Secret as a folder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectSource {
    /// The object's name, in the plugin's namespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("must be an object's name: lower-case letters, digits, `-` and `.`"))]
    pub name: String,

    /// If true, the plugin also runs without the object, and the folder is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A writable folder in memory.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scratch {
    /// The size limit of the folder in each instance. The folder is in memory, and counts as memory on the node.
    pub size_limit: Quantity,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.value) && has(self.valueFrom))")
    .message("value and valueFrom are mutually exclusive"))]
pub struct EnvVar {
    /// The variable's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$') && self != 'SAMOVAR_CONFIG'")
        .message("must be an environment variable's name: letters, digits, `_`, `-` and `.`, not starting with a digit; SAMOVAR_CONFIG is reserved for spec.config"))]
    pub name: String,

    /// The literal value. Use `valueFrom` for secrets: everyone who may read the plugin sees this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub value: Option<String>,

    /// The source of the variable's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvSource>,
}

/// The source of a variable's value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapKeyRef) != has(self.secretKeyRef)")
    .message("exactly one of configMapKeyRef and secretKeyRef must be set"))]
pub struct EnvSource {
    /// A key of a ConfigMap in the plugin's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySource>,

    /// A key of a Secret in the plugin's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeySource>,
}

/// A key of a ConfigMap or a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeySource {
    /// The object's name, in the plugin's namespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("must be an object's name: lower-case letters, digits, `-` and `.`"))]
    pub name: String,

    /// The key in the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')")
        .message("must be a key: letters, digits, `-`, `_` and `.`"))]
    pub key: String,

    /// If true, the plugin also runs without the object or the key, and the variable is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}
