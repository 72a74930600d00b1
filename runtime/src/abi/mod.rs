//! How a guest is called: one file for each way.

pub(crate) mod buffer;
pub(crate) mod component;
pub(crate) mod scalar;

use bytes::Bytes;

use crate::{Call, CallError, Format, Share, instance::Instance};

/// How an export is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    /// A component's typed export: JSON to and from WIT values.
    Component,
    /// A core export of numbers: numbers in, numbers out.
    Scalar,
    /// A core export `(ptr, len) -> i64` with `memory` and `alloc` or `malloc`: bytes in, bytes out.
    Buffer,
}

impl Abi {
    /// Its name, as specs write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Component => "Component",
            Self::Scalar => "Scalar",
            Self::Buffer => "Buffer",
        }
    }
}

/// An export, ready to be called on any instance of its artifact.
pub(crate) enum Target {
    Component(component::Target),
    Scalar(scalar::Target),
    Buffer(buffer::Target),
}

/// A call's arguments, read and checked before any instance is taken for it.
pub(crate) enum Arguments {
    Component(component::Arguments),
    Scalar(Vec<wasmtime::Val>),
    Buffer(Bytes),
}

/// What a function gave.
pub(crate) struct Output {
    pub(crate) body: Bytes,
    pub(crate) format: Format,
}

impl Target {
    pub(crate) fn abi(&self) -> Abi {
        match self {
            Self::Component(_) => Abi::Component,
            Self::Scalar(_) => Abi::Scalar,
            Self::Buffer(_) => Abi::Buffer,
        }
    }

    /// Whether a body of plain bytes makes sense for it.
    pub(crate) fn takes_bytes(&self) -> bool {
        match self {
            Self::Component(target) => target.takes_bytes(),
            Self::Scalar(_) => false,
            Self::Buffer(_) => true,
        }
    }

    /// Reads the arguments; what they take beside the body is drawn into `held`.
    pub(crate) fn arguments(&self, call: Call, held: &Share) -> Result<Arguments, CallError> {
        match self {
            Self::Component(target) => target.arguments(call, held).map(Arguments::Component),
            Self::Scalar(target) => target.arguments(&call, held).map(Arguments::Scalar),
            // Whatever the body is, a buffer is given as it came.
            Self::Buffer(_) => Ok(Arguments::Buffer(call.body)),
        }
    }

    /// Runs the export on an instance.
    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        arguments: Arguments,
        answer_bytes: bool,
        response_bytes: u64,
    ) -> Result<Output, CallError> {
        match (self, arguments) {
            (Self::Component(target), Arguments::Component(arguments)) => {
                target.run(instance, arguments, answer_bytes, response_bytes).await
            }
            (Self::Scalar(target), Arguments::Scalar(arguments)) => target.run(instance, &arguments).await,
            (Self::Buffer(target), Arguments::Buffer(body)) => {
                target.run(instance, &body, response_bytes).await
            }
            _ => Err(CallError::NotCallable("its arguments were read for another ABI".to_owned())),
        }
    }
}
