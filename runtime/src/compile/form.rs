//! Encodes the form of an artifact in one byte, for the header of a cached file and the output of the compiling child.

use crate::Kind;

/// Decides how wasmtime deserializes an artifact, and on which engine variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// A core module.
    Core = 0,
    /// A component.
    Component = 1,
    /// A component that needs concurrency: WASI 0.3, async functions or streams.
    ConcurrentComponent = 2,
}

impl Form {
    /// Reads the byte that `form as u8` wrote.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Core, Self::Component, Self::ConcurrentComponent].into_iter().find(|form| *form as u8 == byte)
    }

    pub(super) fn kind(self) -> Kind {
        if self == Self::Core { Kind::Core } else { Kind::Component }
    }

    pub(super) fn is_concurrent(self) -> bool {
        self == Self::ConcurrentComponent
    }
}
