//! `GET` of a plugin: what it is and which functions it has.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, header, header::HeaderValue};
use samovar_runtime::Abi;
use serde::Serialize;

use super::Answer;
use crate::routes::Serving;

#[derive(Serialize)]
struct Description<'a> {
    namespace: &'a str,
    name: &'a str,
    revision: &'a str,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    not_callable: Option<&'a str>,
}

pub(crate) fn describe(serving: &Serving) -> Answer {
    let Serving { namespace, plugin, revision, runs, .. } = serving;
    let functions = runs.functions().iter().map(|function| FunctionDescription {
        name: function.name(),
        path: format!("/v1/{namespace}/{plugin}/{}", function.name()),
        signature: function.signature(),
        abi: function.abi().map(Abi::as_str),
        not_callable: function.not_callable(),
    });
    let description = Description { namespace, name: plugin, revision, functions: functions.collect() };
    let body = serde_json::to_vec(&description).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
