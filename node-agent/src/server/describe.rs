//! `GET` of a plugin: its revision, limits and functions.

use hyper::{header, header::HeaderValue};
use samovar_crds::{FunctionLimits, Limits};
use samovar_runtime::Abi;
use serde::Serialize;

use crate::{
    desired::Key,
    server::{
        body::{Answer, full},
        routes::Serving,
    },
};

#[derive(Serialize)]
struct Description<'a> {
    namespace: &'a str,
    name: &'a str,
    revision: &'a str,
    /// As in the plugin's spec, defaults included.
    limits: &'a Limits,
    functions: Vec<FunctionDescription<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionDescription<'a> {
    name: &'a str,
    path: String,
    signature: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    abi: Option<&'static str>,
    /// Limits that replace the plugin's.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a FunctionLimits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_callable: Option<&'a str>,
}

pub(super) fn describe(serving: &Serving) -> Answer {
    let Key { namespace, plugin, .. } = &serving.key;
    let template = &serving.revision.template;
    let functions = serving.runs.functions().iter().map(|function| FunctionDescription {
        name: function.name(),
        path: format!("/v1/{namespace}/{plugin}/{}", function.name()),
        signature: function.signature(),
        abi: function.abi().map(Abi::as_str),
        limits: template
            .functions
            .iter()
            .find(|spec| spec.name == function.name())
            .and_then(|spec| spec.limits.as_ref()),
        not_callable: function.not_callable(),
    });
    let description = Description {
        namespace,
        name: plugin,
        revision: &serving.revision.revision,
        limits: &template.limits,
        functions: functions.collect(),
    };
    let body = serde_json::to_vec(&description).unwrap_or_default();
    let mut response = full(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
