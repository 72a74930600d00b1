//! An artifact: the compiled code of one module, counted in the memory budget while it is loaded.

use std::sync::{Arc, Weak};

use wasmtime::component::Component;

use super::build::{Build, Kind};
use crate::memory::budget::{MemoryBudget, Reservation};

/// The compiled code of one module. Cheap to clone; plugins of the same module share it.
#[derive(Clone)]
pub struct Artifact {
    resident: Arc<Resident>,
    build: Build,
    bytes: u64,
}

/// Code in memory, and its reservation.
struct Resident {
    code: Code,
    _memory: Reservation,
}

pub(crate) enum Code {
    Core(wasmtime::Module),
    Component(Component),
}

impl Artifact {
    /// Loads serialized code into the engine that was configured for `build`.
    ///
    /// # Safety
    /// As wasmtime's `deserialize`: `serialized` must be, byte for byte, the output of this program's own
    /// compiler. The only caller is the cache, which checks that.
    #[expect(unsafe_code, reason = "loading machine code cannot be checked; see the contract above")]
    pub(crate) unsafe fn deserialize(
        engine: &wasmtime::Engine,
        memory: &MemoryBudget,
        kind: Kind,
        build: Build,
        serialized: &[u8],
    ) -> wasmtime::Result<Self> {
        let code = match kind {
            // SAFETY: the caller's contract is wasmtime's.
            Kind::Core => Code::Core(unsafe { wasmtime::Module::deserialize(engine, serialized)? }),
            // SAFETY: the caller's contract is wasmtime's.
            Kind::Component => Code::Component(unsafe { Component::deserialize(engine, serialized)? }),
        };
        let bytes = serialized.len() as u64;
        let resident = Arc::new(Resident { code, _memory: memory.account(bytes) });
        Ok(Self { resident, build, bytes })
    }

    /// The kind of its module.
    pub fn kind(&self) -> Kind {
        match self.resident.code {
            Code::Core(_) => Kind::Core,
            Code::Component(_) => Kind::Component,
        }
    }

    pub(crate) fn build(&self) -> Build {
        self.build
    }

    /// The size of the compiled code and its data, in bytes.
    pub fn code_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn code(&self) -> &Code {
        &self.resident.code
    }

    pub(crate) fn downgrade(&self) -> WeakArtifact {
        WeakArtifact { resident: Arc::downgrade(&self.resident), build: self.build, bytes: self.bytes }
    }
}

/// A reference that does not keep the artifact in memory: only plugins do.
pub(crate) struct WeakArtifact {
    resident: Weak<Resident>,
    build: Build,
    bytes: u64,
}

impl WeakArtifact {
    pub(crate) fn upgrade(&self) -> Option<Artifact> {
        let Self { resident, build, bytes } = self;
        Some(Artifact { resident: resident.upgrade()?, build: *build, bytes: *bytes })
    }
}
