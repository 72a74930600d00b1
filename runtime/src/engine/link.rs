//! Linking: resolves the imports of an artifact, and refuses those that are not provided or not granted.

use wasmtime::{ModuleExport, component};

use crate::{
    Grants,
    engine::{
        artifact::{Artifact, Code},
        build::Build,
    },
    grants::{files, network},
    host::{Host, dataflare},
    printable::sanitized,
};

/// All host functions, defined once for all plugins.
pub(crate) struct Linkers {
    core: wasmtime::Linker<Host>,
    component: component::Linker<Host>,
}

/// An artifact whose imports are resolved and type-checked, once for all of its instances.
pub(crate) enum Linked {
    /// A core module, and the `_initialize` of a reactor.
    Core {
        pre: wasmtime::InstancePre<Host>,
        initialize: Option<ModuleExport>,
    },
    Component(component::InstancePre<Host>),
}

/// A reactor exports this function, and wants it called before any other.
const INITIALIZE: &str = "_initialize";

/// An import that the host does not provide, or the plugin's grants do not cover.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LinkError(String);

impl Linked {
    /// The engine that runs its code.
    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        match self {
            Self::Core { pre, .. } => pre.module().engine(),
            Self::Component(pre) => pre.engine(),
        }
    }
}

impl Linkers {
    pub(crate) fn new(engine: &wasmtime::Engine, build: Build) -> wasmtime::Result<Self> {
        let mut core = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::wasi_snapshot_preview1::add_to_linker(&mut core, Host::preview1)?;
        dataflare::add_to_linker(&mut core)?;
        let mut component = component::Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        files::add_to_linker(&mut component, Host::files)?;
        network::add_to_linker(&mut component, Host::network)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;
        if build.is_concurrent {
            // Only the parts of WASI 0.3 that need no grant: its files and sockets would bypass the grants.
            wasmtime_wasi::p3::cli::add_to_linker(&mut component)?;
            wasmtime_wasi::p3::clocks::add_to_linker(&mut component)?;
            wasmtime_wasi::p3::random::add_to_linker(&mut component)?;
            wasmtime_wasi_http::p3::add_to_linker(&mut component)?;
        }
        wasmtime_wasi_config::add_to_linker(&mut component, Host::wasi_config)?;
        Ok(Self { core, component })
    }

    pub(crate) fn link(&self, artifact: &Artifact, grants: &Grants) -> Result<Linked, LinkError> {
        check(artifact, grants)?;
        match artifact.code() {
            Code::Core(module) => self.core.instantiate_pre(module).map(|pre| {
                let initialize = module.get_export(INITIALIZE).and_then(|export| export.func().cloned());
                let takes_nothing = initialize.is_some_and(|ty| ty.params().len() + ty.results().len() == 0);
                let initialize = module.get_export_index(INITIALIZE).filter(|_| takes_nothing);
                Linked::Core { pre, initialize }
            }),
            Code::Component(component) => self.component.instantiate_pre(component).map(Linked::Component),
        }
        .map_err(|error| {
            let wrong = sanitized(format_args!("{error:#}"));
            LinkError(format!(
                "{wrong}; guests can import WASI 0.2 with wasi:http and wasi:config, WASI 0.3 without its files and sockets, preview 1 and DataFlare's host functions, \
                 and nothing else: build the module without that import"
            ))
        })
    }
}

/// Refuses a component that imports an interface of which nothing works without a grant that it lacks.
fn check(artifact: &Artifact, grants: &Grants) -> Result<(), LinkError> {
    let Code::Component(component) = artifact.code() else { return Ok(()) };
    let ty = component.component_type();
    let mut imports = ty.imports(component.engine()).map(|(name, _)| name);
    match imports.find(|name| network::requires_network(name)) {
        Some(import) if grants.network.is_none() => Err(LinkError(format!(
            "the module imports `{}`, which needs `securityPolicy.network`: name the hosts in its `allowedHosts`; if that \
             is empty the module loads, and each of its requests is refused",
            sanitized(import)
        ))),
        _ => Ok(()),
    }
}
