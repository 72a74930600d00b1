//! Errors as callers see them: problem details (RFC 9457), each kind with a stable type.

use std::fmt;

use hyper::{StatusCode, header, header::HeaderValue};
use samovar_runtime::CallError;
use serde::Serialize;
use serde_json::Value;

use super::{Answer, full};
use crate::desired::Key;

macro_rules! problem_types {
    ($($name:ident $slug:literal $status:ident $title:literal,)*) => {
        /// The kinds of problems: the last part of each type's URI, its HTTP status and its title.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ProblemType { $($name,)* }

        impl ProblemType {
            pub(crate) const ALL: [Self; [$($slug),*].len()] = [$(Self::$name),*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

problem_types! {
    BadArguments "bad-arguments" BAD_REQUEST "The arguments do not fit the function",
    NotFound "not-found" NOT_FOUND "There is no such function",
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED "The method is not allowed",
    TooLarge "too-large" PAYLOAD_TOO_LARGE "The body is too large",
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "The body's type is not taken",
    Overloaded "overloaded" TOO_MANY_REQUESTS "Too many calls at once",
    NodeOverloaded "overloaded" SERVICE_UNAVAILABLE "This node has no room",
    Trap "trap" INTERNAL_SERVER_ERROR "The guest trapped",
    MemoryLimit "memory-limit" INTERNAL_SERVER_ERROR "The guest ran out of memory",
    FuelExhausted "fuel-exhausted" INTERNAL_SERVER_ERROR "The call took more fuel than it had",
    GuestError "guest-error" BAD_GATEWAY "The guest answered with an error",
    ResponseTooLarge "response-too-large" BAD_GATEWAY "The guest's answer is too large",
    NotReady "not-ready" SERVICE_UNAVAILABLE "The plugin is not ready",
    Draining "draining" SERVICE_UNAVAILABLE "This node is going away",
    Timeout "timeout" GATEWAY_TIMEOUT "The call took too long",
}

/// What went wrong with one request.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) problem_type: ProblemType,
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
    pub(crate) fn new(problem_type: ProblemType, detail: impl fmt::Display) -> Self {
        Self { problem_type, detail: Value::String(detail.to_string()), backtrace: Vec::new(), allow: None }
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
            short(plugin),
            short(namespace)
        );
        Self::new(ProblemType::NotFound, detail)
    }

    pub(crate) fn no_such_function(key: &Key, function: &str) -> Self {
        let (Key { namespace, plugin, .. }, function) = (key, short(function));
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

    /// The problem object.
    pub(crate) fn json(&self) -> Vec<u8> {
        let body = Body {
            r#type: format!("https://samovar.dev/problems/{}", self.problem_type.as_str()),
            title: self.problem_type.title(),
            status: self.problem_type.status().as_u16(),
            detail: &self.detail,
            backtrace: &self.backtrace,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    pub(super) fn answer(self) -> Answer {
        let status = self.problem_type.status();
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

impl ProblemType {
    /// The kind of problem that a failed call is.
    pub(crate) fn of(error: &CallError) -> Self {
        match error {
            CallError::BadArguments(_) => Self::BadArguments,
            CallError::TooLarge { .. } => Self::TooLarge,
            CallError::Overloaded => Self::Overloaded,
            CallError::AgentFull | CallError::NodeMemory => Self::NodeOverloaded,
            CallError::Trap { .. } | CallError::Init(_) => Self::Trap,
            CallError::MemoryLimit { .. } => Self::MemoryLimit,
            CallError::FuelExhausted => Self::FuelExhausted,
            CallError::GuestError(_) => Self::GuestError,
            CallError::ResponseTooLarge { .. } => Self::ResponseTooLarge,
            CallError::Timeout { .. } => Self::Timeout,
            CallError::NotCallable(_) => Self::NotFound,
            CallError::Closed => Self::Draining,
        }
    }
}

/// What a failed call means to its caller.
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

/// Enough of a caller's own text to recognise it.
fn short(text: &str) -> &str {
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
    async fn a_trap_tells_the_guests_backtrace() {
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
    async fn overload_says_when_to_try_again() {
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
