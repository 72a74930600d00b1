//! A call: its request, its answer, and its errors.

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{NoMemory, memory::limiter::Refusal, printable::sanitized};

/// One call of one function.
#[derive(Clone, Debug)]
pub struct Call {
    /// The body of the request.
    pub body: Bytes,
    /// The format of the body.
    pub format: Format,
    /// The caller prefers bytes to base64 or text.
    pub answer_bytes: bool,
}

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON: the arguments as an object or an array; the result as a value.
    Json,
    /// Plain bytes: the only `list<u8>`, a buffer, or a program's stdin and stdout.
    Bytes,
    /// UTF-8 text: a program's stdin and stdout.
    Text,
}

/// A function's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The result.
    pub body: Bytes,
    /// The format of the result.
    pub format: Format,
    /// The time of each phase.
    pub timing: Timing,
    /// The fuel that the call consumed; `None` if the plugin's code counts none.
    pub fuel: Option<u64>,
}

/// The time of each phase of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Queued behind other calls.
    pub queue: Duration,
    /// Acquiring an instance: next to nothing if one was warm.
    pub instantiate: Duration,
    /// Running the guest, including its arguments and results.
    pub run: Duration,
}

/// The errors of a call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The body does not fit the function's parameters.
    #[error("{0}")]
    BadArguments(String),
    /// The body is larger than `limits.requestBytes`.
    #[error("the body is larger than this function's limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The gate's queue is full.
    #[error("as many calls run and wait as this plugin's limits allow; try again later")]
    Overloaded,
    /// The process has as many instances as it may have.
    #[error("this node has no room for another instance; try again later")]
    AgentFull,
    /// The memory budget is exhausted, which is not this guest's fault.
    #[error("{NoMemory}")]
    NodeMemory,
    /// The guest trapped.
    #[error("the guest trapped: {message}")]
    Trap {
        /// The cause.
        message: String,
        /// The guest's own functions, innermost first.
        backtrace: Vec<String>,
    },
    /// The guest reached its memory limit.
    #[error("the guest needed more memory than its limit of {limit} bytes")]
    MemoryLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// The call ran out of fuel.
    #[error("the call needed more fuel than its limit")]
    FuelExhausted,
    /// The guest returned an error: the `err` of its `result`, as JSON.
    #[error("the guest answered with an error: {0}")]
    GuestError(String),
    /// The answer is larger than `limits.responseBytes`.
    #[error("the guest's answer is larger than this function's limit of {limit} bytes")]
    ResponseTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The call took longer than `limits.timeout`.
    #[error("the call took longer than this function's limit of {} ms and was stopped", limit.as_millis())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// Instantiation failed, in a start function or in `_initialize`.
    #[error("the instance could not be created: {0}")]
    Init(String),
    /// JSON cannot carry the function's parameters or results.
    #[error("this function cannot be called: {0}")]
    NotCallable(String),
    /// The plugin is closed.
    #[error("this revision is going away; try again")]
    Closed,
}

impl From<NoMemory> for CallError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NodeMemory
    }
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Budget => Self::NodeMemory,
            Refusal::Limit(limit) => Self::MemoryLimit { limit },
        }
    }
}

/// The most frames of a guest's backtrace that an error keeps.
const FRAMES: usize = 32;

impl CallError {
    /// A fault of the guest that the host finds. It has no backtrace.
    pub(crate) fn trap(message: impl Into<String>) -> Self {
        Self::Trap { message: message.into(), backtrace: Vec::new() }
    }

    /// Converts the error of a guest's execution.
    pub(crate) fn of_guest(error: &wasmtime::Error) -> Self {
        // The engine's pool had no free stack, which is not the guest's fault.
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Self::AgentFull;
        }
        if let Some(wasmtime::Trap::OutOfFuel) = error.downcast_ref() {
            return Self::FuelExhausted;
        }
        if error.is::<NoMemory>() {
            return Self::NodeMemory;
        }
        let message =
            match (error.downcast_ref::<wasmtime::Trap>(), error.downcast_ref::<wasmtime_wasi::I32Exit>()) {
                (Some(trap), _) => trap.to_string(),
                (None, Some(exit)) => format!("it exited with status {}", exit.0),
                (None, None) => sanitized(error.root_cause()),
            };
        let frames = error.downcast_ref::<wasmtime::WasmBacktrace>().map_or(&[][..], |trace| trace.frames());
        let backtrace = frames.iter().take(FRAMES).map(|frame| sanitized(Frame(frame))).collect();
        Self::Trap { message, backtrace }
    }
}

/// Displays a frame by its function's demangled name, or by its index if it has no name.
struct Frame<'a>(&'a wasmtime::FrameInfo);

impl fmt::Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.func_name() {
            Some(name) => write!(f, "{:#}", rustc_demangle::demangle(name)),
            None => write!(f, "function {}", self.0.func_index()),
        }
    }
}
