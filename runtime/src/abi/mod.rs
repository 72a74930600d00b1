//! The ABIs by which the host calls guests, a file for each.

pub(crate) mod buffer;
pub(crate) mod command;
pub(crate) mod component;
mod dataflare;
pub(crate) mod http;
mod linear;
pub(crate) mod scalar;
pub(crate) mod wasm_engine;

use bytes::Bytes;

pub(crate) use dataflare::DataFlare;

use crate::{Artifact, Call, CallError, Format, Reservation, engine::artifact::Code, instance::Instance};

/// The ABI of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    /// A component's typed export: JSON to and from WIT values.
    Component,
    /// A component's handler of HTTP requests.
    Http,
    /// A program, `_start` or `wasi:cli/run`: the body is its stdin, its stdout is the answer.
    Command,
    /// A core export of numbers: numbers in, numbers out.
    Scalar,
    /// A core export `(ptr, len) -> i64` with `memory` and `alloc` or `malloc`, or `process_data` beside
    /// `plugin_init`: bytes in, bytes out.
    Buffer,
    /// openEuler WasmEngine's: a core export `(ptr, len) -> (ptr, len)` with `memory` and `__heap_base`, or a
    /// program whose `argv[0]` is its JSON.
    WasmEngine,
}

impl Abi {
    /// The name in a spec.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Component => "Component",
            Self::Http => "Http",
            Self::Command => "Command",
            Self::Scalar => "Scalar",
            Self::Buffer => "Buffer",
            Self::WasmEngine => "WasmEngine",
        }
    }
}

/// An export with its ABI: callable on any instance of its artifact.
pub(crate) enum Target {
    Component(component::Target),
    Http(http::Target),
    Command(command::Target),
    Scalar(scalar::Target),
    Buffer(buffer::Target),
    DataFlare(Box<DataFlare>),
    WasmEngine(wasm_engine::Target),
}

/// The start step of an ABI: it runs once in an instance's life, before the first call.
pub(crate) struct Startup(Option<DataFlare>);

impl Startup {
    pub(crate) fn of(artifact: &Artifact) -> Self {
        match artifact.code() {
            Code::Core(module) => Self(DataFlare::of(module)),
            Code::Component(_) => Self(None),
        }
    }

    /// Runs the step on a new instance.
    pub(crate) async fn run(&self, instance: &mut Instance) -> Result<(), CallError> {
        let Some(dataflare) = &self.0 else { return Ok(()) };
        let started = dataflare.init(instance).await;
        started.map_err(|error| instance.init_error(error))
    }
}

/// The arguments of a call, parsed and checked before an instance is acquired.
pub(crate) enum Arguments {
    Component(component::Arguments),
    Command(command::Arguments),
    Scalar(Vec<wasmtime::Val>),
    Buffer(Bytes),
    WasmEngine(wasm_engine::Arguments),
}

/// The form and size of the answer that a call wants.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Bytes rather than base64 or text, if the ABI has the choice.
    pub(crate) bytes: bool,
    /// The largest answer, in bytes.
    pub(crate) limit: u64,
}

/// The result of a function.
pub(crate) struct Output {
    pub(crate) body: Bytes,
    pub(crate) format: Format,
}

impl Output {
    /// A program's output: text if it is UTF-8, unless the caller prefers bytes.
    fn text(body: Bytes, wanted: Wanted) -> Self {
        let is_text = !wanted.bytes && std::str::from_utf8(&body).is_ok();
        Self { body, format: if is_text { Format::Text } else { Format::Bytes } }
    }
}

impl Target {
    pub(crate) fn abi(&self) -> Abi {
        match self {
            Self::Component(_) => Abi::Component,
            Self::Http(_) => Abi::Http,
            Self::Command(_) => Abi::Command,
            Self::Scalar(_) => Abi::Scalar,
            Self::Buffer(_) | Self::DataFlare(_) => Abi::Buffer,
            Self::WasmEngine(_) => Abi::WasmEngine,
        }
    }

    /// True if it accepts a body of plain bytes.
    pub(crate) fn takes_bytes(&self) -> bool {
        match self {
            Self::Component(target) => target.takes_bytes(),
            Self::Http(_) | Self::Scalar(_) | Self::WasmEngine(_) => false,
            Self::Command(_) | Self::Buffer(_) | Self::DataFlare(_) => true,
        }
    }

    /// True if its instance cannot be reused: a program runs once, and an overwritten heap is lost.
    pub(crate) fn is_single_use(&self) -> bool {
        matches!(self, Self::Command(_) | Self::WasmEngine(_))
    }

    /// Runs the last function of an instance that serves no more calls, if its ABI has one.
    pub(crate) async fn end(&self, instance: &mut Instance) {
        if let Self::DataFlare(dataflare) = self {
            dataflare.end(instance).await;
        }
    }

    /// Parses the arguments. Their memory beside the body is reserved in `held`.
    pub(crate) fn arguments(&self, call: Call, held: &Reservation) -> Result<Arguments, CallError> {
        match self {
            Self::Component(target) => target.arguments(call, held).map(Arguments::Component),
            Self::Http(_) => Err(CallError::NotCallable("it handles HTTP requests, not calls".to_owned())),
            Self::Command(target) => target.arguments(call, held).map(Arguments::Command),
            Self::Scalar(target) => target.arguments(&call, held).map(Arguments::Scalar),
            // A buffer is passed verbatim, whatever its format.
            Self::Buffer(_) | Self::DataFlare(_) => Ok(Arguments::Buffer(call.body)),
            Self::WasmEngine(_) => wasm_engine::Arguments::new(&call, held).map(Arguments::WasmEngine),
        }
    }

    /// Runs the export on an instance.
    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        arguments: Arguments,
        wanted: Wanted,
    ) -> Result<Output, CallError> {
        match (self, arguments) {
            (Self::Component(target), Arguments::Component(arguments)) => {
                target.run(instance, arguments, wanted).await
            }
            (Self::Command(target), Arguments::Command(arguments)) => {
                target.run(instance, arguments, wanted).await
            }
            (Self::Scalar(target), Arguments::Scalar(arguments)) => target.run(instance, &arguments).await,
            (Self::Buffer(target), Arguments::Buffer(body)) => {
                target.run(instance, &body, wanted.limit).await
            }
            (Self::DataFlare(dataflare), Arguments::Buffer(body)) => {
                dataflare.run(instance, &body, wanted.limit).await
            }
            (Self::WasmEngine(target), Arguments::WasmEngine(arguments)) => {
                target.run(instance, arguments, wanted).await
            }
            _ => Err(CallError::NotCallable("its arguments were parsed for another ABI".to_owned())),
        }
    }
}
