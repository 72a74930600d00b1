//! The custom resources that people and controllers exchange: types, defaults, rules, names.
//!
//! [`WasmPlugin`] is what an application developer applies. [`PluginAssignment`] is what the operator
//! asks of one agent, and where that agent reports. The CRDs in `generated/` are made from these types
//! by `samovar crds`.

mod assignment;
mod condition;
mod duration;
mod manifest;
pub mod names;
mod plugin;
mod quantity;
mod template;

pub use assignment::{
    AgentRef, Figures, PluginAssignment, PluginAssignmentSpec, PluginAssignmentStatus, State,
};
pub use condition::{ConditionType, Reason, is_true, set_condition};
pub use duration::Duration;
pub use manifest::ManifestError;
pub use plugin::{NodeCounts, WasmPlugin, WasmPluginSpec, WasmPluginStatus};
pub use quantity::{Quantity, QuantityError};
pub use template::{
    Abi, FunctionLimits, FunctionSpec, FunctionStatus, ImagePullPolicy, Instances, Limits, PluginTemplate,
    PluginType, Reuse,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Every CustomResourceDefinition of Samovar, in the order in which they are written out.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![PluginAssignment::crd(), WasmPlugin::crd()]
}

/// The API group and version of every kind here.
pub const API_VERSION: &str = "samovar.dev/v1alpha1";
