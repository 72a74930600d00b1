//! The functions that a module exports, as they are before anybody asks for one.

use wasmtime::{
    FuncType, ModuleExport,
    component::{
        ComponentExportIndex,
        types::{ComponentFunc, ComponentItem},
    },
};

use crate::{
    Abi, Artifact,
    abi::{DataFlare, Target, buffer, command, component, http, scalar, wasm_engine},
    engine::artifact::Code,
};

/// One function that a module exports.
pub(crate) struct Export {
    /// The interface that it is in, with its version: `demo:text/api@0.1.0`. None at the root and in core modules.
    interface: Option<String>,
    /// Its own name.
    name: String,
    item: Item,
}

enum Item {
    Core(ModuleExport, FuncType),
    Component(ComponentExportIndex, ComponentFunc),
}

/// What core modules export for their host and not for callers: set-up and memory management.
const HOST_ONLY: [&str; 8] =
    ["_initialize", "alloc", "malloc", "calloc", "realloc", "dealloc", "free", "cabi_realloc"];

/// The entry of a program: of a core module, and of a component with the start of its interface's name.
const START: &str = "_start";
const RUN: (&str, &str) = ("wasi:cli/run@0.2.", "run");

/// Every function that `artifact` exports, those of interfaces at the root included.
pub(crate) fn of(artifact: &Artifact) -> Vec<Export> {
    match artifact.code() {
        Code::Core(module) => {
            let has_dataflare = DataFlare::of(module).is_some();
            let functions = module.exports().filter_map(|export| {
                let name = export.name();
                let is_host_only =
                    HOST_ONLY.contains(&name) || has_dataflare && DataFlare::is_host_only(name);
                if is_host_only || name.starts_with("__") {
                    return None;
                }
                let item = Item::Core(module.get_export_index(name)?, export.ty().func()?.clone());
                Some(Export { interface: None, name: name.to_owned(), item })
            });
            functions.collect()
        }
        Code::Component(component) => {
            let engine = component.engine();
            let mut found = Vec::new();
            let mut add = |interface: Option<&str>, parent: Option<&_>, name: &str, item: ComponentItem| {
                if let (ComponentItem::ComponentFunc(ty), Some(index)) =
                    (item, component.get_export_index(parent, name))
                {
                    let (interface, name) = (interface.map(str::to_owned), name.to_owned());
                    found.push(Export { interface, name, item: Item::Component(index, ty) });
                }
            };
            for (name, export) in component.component_type().exports(engine) {
                match export.ty {
                    ComponentItem::ComponentInstance(instance) => {
                        let parent = component.get_export_index(None, name);
                        for (function, export) in instance.exports(engine) {
                            add(Some(name), parent.as_ref(), function, export.ty);
                        }
                    }
                    item => add(None, None, name, item),
                }
            }
            found
        }
    }
}

impl Export {
    /// Its name and where it is: `demo:text/api@0.1.0#upper`, or its bare name.
    pub(crate) fn full_name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{interface}#{}", self.name),
            None => self.name.clone(),
        }
    }

    /// The interface's bare name: `api` of `demo:text/api@0.1.0`.
    pub(crate) fn interface(&self) -> Option<&str> {
        unversioned(self.interface.as_ref()?).rsplit('/').next()
    }

    /// Whether it is the entry of a program.
    pub(crate) fn is_program(&self) -> bool {
        match (&self.item, &self.interface) {
            (Item::Core(..), _) => self.name == START,
            (Item::Component(..), Some(interface)) => interface.starts_with(RUN.0) && self.name == RUN.1,
            (Item::Component(..), None) => false,
        }
    }

    /// Whether whole requests go to it, and by which WASI.
    pub(crate) fn handler(&self) -> Option<http::Version> {
        http::Version::of(self.interface.as_ref()?, &self.name)
    }

    /// Its own name as an endpoint: in kebab case, as WIT's names are; `run` for a program.
    pub(crate) fn endpoint(&self) -> String {
        if self.is_program() {
            return RUN.1.to_owned();
        }
        let mut kebab = String::with_capacity(self.name.len() + 4);
        let mut lower = false;
        for c in self.name.chars() {
            if c == '_' {
                kebab.push('-');
            } else {
                if c.is_ascii_uppercase() && lower {
                    kebab.push('-');
                }
                kebab.push(c.to_ascii_lowercase());
            }
            lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        }
        kebab.trim_matches('-').to_owned()
    }

    /// Whether a spec's `export` means this one; the interface's version may be left out.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        match (&self.interface, wanted.split_once('#')) {
            (Some(interface), Some((wanted, name))) => {
                name == self.name && (wanted == interface || wanted == unversioned(interface))
            }
            (_, None) => wanted == self.name,
            (None, Some(_)) => false,
        }
    }

    /// Its type in WIT's words.
    pub(crate) fn signature(&self) -> String {
        match &self.item {
            _ if self.handler().is_some() => http::SIGNATURE.to_owned(),
            Item::Core(_, ty) => scalar::Signature(ty).to_string(),
            Item::Component(_, ty) => component::Signature(ty).to_string(),
        }
    }

    /// How it is called at an endpoint, in the way that is asked for or as it is; or why it cannot be.
    pub(crate) fn target(
        &self,
        artifact: &Artifact,
        abi: Option<Abi>,
        endpoint: &str,
    ) -> Result<Target, String> {
        let is_program = self.is_program();
        let target = match (&self.item, artifact.code()) {
            (Item::Core(index, ty), _) if is_program => {
                let program = command::Target::core(*index, ty, endpoint)
                    .ok_or_else(|| format!("`{START}` of a program takes and gives nothing"))?;
                if abi == Some(Abi::WasmEngine) {
                    Target::WasmEngine(wasm_engine::Target::Program(program))
                } else {
                    Target::Command(program)
                }
            }
            (Item::Component(index, ty), _) if is_program && abi != Some(Abi::Component) => {
                command::Target::component(*index, ty, endpoint)
                    .map(Target::Command)
                    .ok_or_else(|| "`run` of a program is `func() -> result`".to_owned())?
            }
            (Item::Component(index, ty), _) => match (self.handler(), abi) {
                (Some(version), Some(Abi::Http)) => Target::Http(http::Target::new(*index, version)),
                (Some(_), _) => return Err("it takes whole HTTP requests: set `type: Http`".to_owned()),
                (None, _) => {
                    Target::Component(component::Target::new(*index, ty).map_err(|why| why.to_string())?)
                }
            },
            (Item::Core(index, ty), Code::Core(module)) if abi != Some(Abi::Scalar) => {
                let dataflare = DataFlare::of(module).filter(|_| DataFlare::is_the_function(&self.name));
                if let Some(dataflare) = dataflare {
                    Target::DataFlare(Box::new(dataflare))
                } else if let Some(target) = buffer::Target::new(module, *index, ty) {
                    Target::Buffer(target)
                } else if let Some(target) = wasm_engine::Target::core(module, &self.name) {
                    Target::WasmEngine(target)
                } else {
                    scalar(*index, ty)?
                }
            }
            (Item::Core(index, ty), _) => scalar(*index, ty)?,
        };
        match abi {
            Some(abi) if abi != target.abi() => Err(format!(
                "it is of the {:?} ABI, not {abi:?}; leave `abi` out to take it as it is",
                target.abi()
            )),
            _ => Ok(target),
        }
    }
}

fn scalar(index: ModuleExport, ty: &FuncType) -> Result<Target, String> {
    scalar::Target::new(index, ty)
        .map(Target::Scalar)
        .ok_or_else(|| "it takes or gives something else than numbers".to_owned())
}

fn unversioned(interface: &str) -> &str {
    interface.split('@').next().unwrap_or_default()
}
