//! What goes into a call and what comes out: the request, the answer, and each way to fail.

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{NoMemory, memory::limiter::Refusal, printable::sanitized};

/// One call of one function.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request's body, as long as it came.
    pub body: Bytes,
    /// How the body is to be read.
    pub format: Format,
    /// The caller would rather have bytes than base64, where the result is a `list<u8>`.
    pub answer_bytes: bool,
}

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON: the arguments as an object or an array; the result as a value.
    Json,
    /// The one `list<u8>`, as it is; what a program reads or writes.
    Bytes,
    /// What a program reads or writes, as UTF-8 text.
    Text,
}

/// A function's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The result.
    pub body: Bytes,
    /// How it is to be read.
    pub format: Format,
    /// Where the time went.
    pub timing: Timing,
    /// The fuel that the call took, where the plugin's code counts it.
    pub fuel: Option<u64>,
}

/// Where a call's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for other calls to end.
    pub queue: Duration,
    /// Getting an instance: next to nothing where a warm one was there.
    pub instantiate: Duration,
    /// The guest itself, and the values in and out of it.
    pub run: Duration,
}

/// Why a call has no answer.
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
    /// As many calls run and wait as may.
    #[error("as many calls run and wait as this plugin's limits allow; try again later")]
    Overloaded,
    /// The agent has no room for another instance.
    #[error("this node has no room for another instance; try again later")]
    AgentFull,
    /// The memory budget is used up, through no fault of this guest.
    #[error("{NoMemory}")]
    NodeMemory,
    /// The guest trapped.
    #[error("the guest trapped: {message}")]
    Trap {
        /// What happened.
        message: String,
        /// The guest's own functions, innermost first.
        backtrace: Vec<String>,
    },
    /// The guest ran out of memory.
    #[error("the guest needed more memory than its limit of {limit} bytes")]
    MemoryLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// The call took more fuel than it had.
    #[error("the call needed more fuel than its limit")]
    FuelExhausted,
    /// The guest itself said that it failed: the `err` of its `result`, as JSON.
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
    /// An instance could not be made: its start or `_initialize` function failed.
    #[error("an instance could not be made: {0}")]
    Init(String),
    /// The function takes or gives what JSON cannot carry.
    #[error("this function cannot be called: {0}")]
    NotCallable(String),
    /// The plugin is going away.
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

/// The most frames of a guest's backtrace that are told.
const FRAMES: usize = 32;

impl CallError {
    /// A trap that the host finds: it has no backtrace.
    pub(crate) fn trap(message: impl Into<String>) -> Self {
        Self::Trap { message: message.into(), backtrace: Vec::new() }
    }

    /// What a wasmtime error means to the caller.
    pub(crate) fn of_guest(error: &wasmtime::Error) -> Self {
        // No stack was free for it: the pool's doing, not the guest's.
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

/// A frame as people read it: the function, and its source where the module tells.
struct Frame<'a>(&'a wasmtime::FrameInfo);

impl fmt::Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.func_name() {
            Some(name) => write!(f, "{:#}", wasmtime_name(name)),
            None => write!(f, "function {}", self.0.func_index()),
        }
    }
}

fn wasmtime_name(name: &str) -> impl fmt::Display + '_ {
    rustc_demangle::demangle(name)
}
