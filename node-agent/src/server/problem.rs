//! Problem objects (RFC 9457): errors as callers see them, each with a stable type.

use std::fmt;

use hyper::{StatusCode, header, header::HeaderValue};
use samovar_runtime::CallError;
use serde::Serialize;
use serde_json::Value;

use crate::{
    desired::Key,
    server::{
        body::{Answer, full},
        problem_type::ProblemType,
    },
};

/// The problem of one request.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemType,
    detail: Value,
    backtrace: Vec<String>,
    allow: Option<&'static str>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a Value,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    backtrace: &'a [String],
}

impl Problem {
    pub(crate) fn new(kind: ProblemType, detail: impl fmt::Display) -> Self {
        Self { kind, detail: Value::String(detail.to_string()), backtrace: Vec::new(), allow: None }
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(
            ProblemType::NotFound,
            "call POST /v1/NAMESPACE/PLUGIN/FUNCTION, or POST /FUNCTION with the host PLUGIN.NAMESPACE",
        )
    }

    pub(crate) fn no_such_plugin(namespace: &str, plugin: &str) -> Self {
        let detail = format_args!(
            "there is no plugin `{}` in namespace `{}` on this node",
            truncated(plugin),
            truncated(namespace)
        );
        Self::new(ProblemType::NotFound, detail)
    }

    pub(crate) fn no_such_function(key: &Key, function: &str) -> Self {
        let (Key { namespace, plugin, .. }, function) = (key, truncated(function));
        let detail = format_args!(
            "plugin `{plugin}` has no function `{function}`; GET /v1/{namespace}/{plugin} lists what it has"
        );
        Self::new(ProblemType::NotFound, detail)
    }

    pub(crate) fn not_ready(why: &str) -> Self {
        Self::new(ProblemType::NotReady, why)
    }

    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(ProblemType::MethodNotAllowed, format_args!("use {allow}")) }
    }

    #[cfg(test)]
    pub(crate) fn detail(&self) -> &Value {
        &self.detail
    }

    /// The problem object, in JSON.
    pub(crate) fn json(&self) -> Vec<u8> {
        let body = Body {
            r#type: format!("https://samovar.dev/problems/{}", self.kind.as_str()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            backtrace: &self.backtrace,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    pub(super) fn answer(self) -> Answer {
        let status = self.kind.status();
        let mut response = full(self.json());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// The problem of a failed call.
impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let problem = Self::new(ProblemType::of(&error), &error);
        match error {
            CallError::GuestError(json) => {
                Self { detail: serde_json::from_str(&json).unwrap_or(Value::String(json)), ..problem }
            }
            CallError::Trap { backtrace, .. } => Self { backtrace, ..problem },
            _ => problem,
        }
    }
}

/// Truncates a caller's text to what is enough to recognise it.
fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn rendered(problem: Problem) -> (StatusCode, Value, Option<String>) {
        let response = problem.answer();
        let status = response.status();
        let retry =
            response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap(), retry)
    }

    #[tokio::test]
    async fn a_trap_includes_the_guests_backtrace() {
        let trap = CallError::Trap { message: "unreachable".to_owned(), backtrace: vec!["inner".to_owned()] };
        let (status, body, _) = rendered(trap.into()).await;
        assert_eq!(status, 500);
        assert_eq!(body["type"], "https://samovar.dev/problems/trap");
        assert_eq!(body["status"], 500);
        assert_eq!(body["detail"], "the guest trapped: unreachable");
        assert_eq!(body["backtrace"][0], "inner");
    }

    #[tokio::test]
    async fn a_guests_own_error_is_the_detail() {
        let (status, body, _) = rendered(CallError::GuestError(r#"{"empty":null}"#.to_owned()).into()).await;
        assert_eq!((status.as_u16(), &body["detail"]), (502, &serde_json::json!({ "empty": null })));
    }

    #[tokio::test]
    async fn overload_has_a_retry_after() {
        for (error, status) in [
            (CallError::Overloaded, 429),
            (CallError::AgentFull, 503),
            (CallError::NodeMemory, 503),
            (CallError::Closed, 503),
        ] {
            let (answered, _, retry) = rendered(error.into()).await;
            assert_eq!((answered.as_u16(), retry.as_deref()), (status, Some("1")));
        }
    }
}
