//! Linking: what every guest may import, and a clear refusal of what it may not.

use wasmtime::component;

use crate::{
    artifact::{Artifact, Code},
    host::Host,
    plugin::LoadError,
};

/// Everything that guests are offered, defined once for all plugins.
pub(crate) struct Linkers {
    core: wasmtime::Linker<Host>,
    component: component::Linker<Host>,
}

/// An artifact whose imports are resolved and type-checked: instances of it are made without looking again.
pub(crate) enum Linked {
    Core(wasmtime::InstancePre<Host>),
    Component(component::InstancePre<Host>),
}

impl Linkers {
    pub(crate) fn new(engine: &wasmtime::Engine) -> wasmtime::Result<Self> {
        let mut core = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, Host::preview1)?;
        let mut component = component::Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        Ok(Self { core, component })
    }

    pub(crate) fn link(&self, artifact: &Artifact) -> Result<Linked, LoadError> {
        match artifact.code() {
            Code::Core(module) => self.core.instantiate_pre(module).map(Linked::Core),
            Code::Component(component) => self.component.instantiate_pre(component).map(Linked::Component),
        }
        .map_err(|error| LoadError::ImportNotGranted(format!("{error:#}")))
    }
}
