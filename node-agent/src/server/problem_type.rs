//! The problem types (RFC 9457): each kind of failed request, with its slug, HTTP status and title.

use hyper::StatusCode;
use samovar_runtime::CallError;

macro_rules! problem_types {
    ($($name:ident $slug:literal $status:ident $title:literal,)*) => {
        /// The problem types: the last segment of each URI, its HTTP status and its title.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ProblemType { $($name,)* }

        impl ProblemType {
            pub(crate) const ALL: [Self; [$($slug),*].len()] = [$(Self::$name),*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            pub(crate) const fn title(self) -> &'static str {
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
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "The body's media type is not supported",
    Overloaded "overloaded" TOO_MANY_REQUESTS "Too many calls at once",
    NodeOverloaded "overloaded" SERVICE_UNAVAILABLE "This node is overloaded",
    Trap "trap" INTERNAL_SERVER_ERROR "The guest trapped",
    MemoryLimit "memory-limit" INTERNAL_SERVER_ERROR "The guest ran out of memory",
    FuelExhausted "fuel-exhausted" INTERNAL_SERVER_ERROR "The call ran out of fuel",
    GuestError "guest-error" BAD_GATEWAY "The guest answered with an error",
    ResponseTooLarge "response-too-large" BAD_GATEWAY "The guest's answer is too large",
    NotReady "not-ready" SERVICE_UNAVAILABLE "The plugin is not ready",
    Draining "draining" SERVICE_UNAVAILABLE "This node is draining",
    Timeout "timeout" GATEWAY_TIMEOUT "The call took too long",
}

impl ProblemType {
    /// The problem type of a failed call.
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
