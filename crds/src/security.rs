//! `securityPolicy`: what a plugin's guests may do beside computing. What is not granted is denied.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// What the guests may do beside computing. Everything that is not granted here is denied.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityPolicy {
    /// Which hosts they may reach. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkAccess>,

    /// What they find in their file system. Left out: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    #[x_kube(validation = Rule::new("self.all(outer, !self.exists(inner, inner.path.startsWith(outer.path + '/')))")
        .message("no path may be inside another"))]
    pub files: Vec<FileGrant>,

    /// Their environment variables. Left out: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
}

/// Which hosts the guests may reach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAccess {
    /// Names, `*.` before one for every name below it, IP addresses and CIDRs, each with `:port` where only that one
    /// is meant. A name that resolves to a private address is not reached unless that address is in the list too.
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
    .message("exactly one of configMap, secret and scratch must be given"))]
#[x_kube(validation = Rule::new("!has(self.readOnly) || self.readOnly != has(self.scratch)")
    .message("what a ConfigMap or a Secret holds is read-only, and scratch is not"))]
pub struct FileGrant {
    /// Where the guest finds it: an absolute path, such as `/words`.
    #[schemars(length(min = 2, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9._-]+)+$') && !self.split('/').exists(part, part == '.' || part == '..')")
        .message("must be an absolute path of letters, digits, `.`, `_` and `-`, without `..` and without a `/` at its end"))]
    pub path: String,

    /// Whether it can be read only. There is no choice: true for a ConfigMap or a Secret, false for scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,

    /// A ConfigMap of the plugin's namespace: a file for each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ObjectSource>,

    /// A Secret of the plugin's namespace: a file for each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectSource>,

    /// A folder to write in: empty for each instance, and gone with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
}

/// A ConfigMap or a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectSource {
    /// Its name, in the plugin's namespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("must be an object's name: lower-case letters, digits, `-` and `.`"))]
    pub name: String,

    /// Whether the plugin may run without it: the folder is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A folder to write in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scratch {
    /// The most that one instance may keep in it. It is memory, and counts as such on the node.
    pub size_limit: Quantity,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.value) && has(self.valueFrom))")
    .message("value and valueFrom exclude each other"))]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$') && self != 'SAMOVAR_CONFIG'")
        .message("must be an environment variable's name: letters, digits, `_`, `-` and `.`, the first no digit; SAMOVAR_CONFIG is what spec.config is given in"))]
    pub name: String,

    /// Its value, as it is. It is no place for secrets: it is in the plugin's object for all to see who may read that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub value: Option<String>,

    /// Where its value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvSource>,
}

/// Where a variable's value is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapKeyRef) != has(self.secretKeyRef)")
    .message("exactly one of configMapKeyRef and secretKeyRef must be given"))]
pub struct EnvSource {
    /// A key of a ConfigMap of the plugin's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySource>,

    /// A key of a Secret of the plugin's namespace.
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

    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')")
        .message("must be a key: letters, digits, `-`, `_` and `.`"))]
    pub key: String,

    /// Whether the plugin may run without it: the variable is not set then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}
