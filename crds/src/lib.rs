//! The custom resources that people and controllers exchange: types, defaults, validation rules, names.
//!
//! An application developer applies a [`WasmPlugin`]. The operator assigns its revisions to agents by
//! [`PluginAssignment`]s, in whose status the agents report. `samovar crds` generates the CRDs in
//! `generated/` from these types.

mod assignment;
mod condition;
mod contents;
mod duration;
mod manifest;
pub mod names;
mod plugin;
mod quantity;
mod security;
mod template;

pub use assignment::{
    AgentRef, LoadStats, PluginAssignment, PluginAssignmentSpec, PluginAssignmentStatus, State,
};
pub use condition::{ConditionType, Reason, is_true, set_condition};
pub use contents::{
    Contents, Data, LARGEST_CONTENTS, LocalObject, Missing, ObjectKind, config_map_data, secret_data,
};
pub use duration::Duration;
pub use manifest::ManifestError;
pub use plugin::{NodeCounts, WasmPlugin, WasmPluginSpec, WasmPluginStatus};
pub use quantity::{Quantity, QuantityError};
pub use security::{
    EnvSource, EnvVar, FileGrant, KeySource, NetworkAccess, ObjectSource, Scratch, SecurityPolicy,
};
pub use template::{
    Abi, FunctionLimits, FunctionSpec, FunctionStatus, ImagePullPolicy, Instances, Limits, PluginTemplate,
    PluginType, Reuse,
};

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

/// Every CustomResourceDefinition of Samovar, in the order in which they are written out.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![PluginAssignment::crd(), WasmPlugin::crd()];
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            use_openapi_formats(schema);
        }
    }
    crds
}

/// Replaces `uint32` by `int64`: Kubernetes knows the formats of OpenAPI alone, of which none is unsigned, and warns of
/// others.
fn use_openapi_formats(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref() == Some("uint32") {
        schema.format = Some("int64".to_owned());
    }
    schema.properties.iter_mut().flat_map(BTreeMap::values_mut).for_each(use_openapi_formats);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        use_openapi_formats(items);
    }
}

/// The API group and version of all kinds of Samovar.
pub const API_VERSION: &str = "samovar.dev/v1alpha1";
