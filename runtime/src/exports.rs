//! The functions that a module exports, with the ABI of each.

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
    /// Its interface with the version: `demo:text/api@0.1.0`. `None` at the root and in core modules.
    interface: Option<String>,
    /// The bare name.
    name: String,
    item: Item,
}

enum Item {
    Core(ModuleExport, FuncType),
    Component(ComponentExportIndex, ComponentFunc),
}

/// Exports of core modules that are for the host, not for callers: initialization and memory management.
const HOST_ONLY: [&str; 8] =
    ["_initialize", "alloc", "malloc", "calloc", "realloc", "dealloc", "free", "cabi_realloc"];

/// The entry of a program that is a core module.
const START: &str = "_start";
/// The entry of a program that is a component: its interface, up to the patch level, and its function.
const RUN: (&str, &str) = ("wasi:cli/run@0.2.", "run");

/// All functions that `artifact` exports, those of its exported interfaces included.
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
    /// The qualified name: `demo:text/api@0.1.0#upper`, or the bare name if there is no interface.
    pub(crate) fn full_name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{interface}#{}", self.name),
            None => self.name.clone(),
        }
    }

    /// The bare name of its interface: `api` of `demo:text/api@0.1.0`.
    pub(crate) fn interface(&self) -> Option<&str> {
        unversioned(self.interface.as_ref()?).rsplit('/').next()
    }

    /// True for the entry of a program.
    pub(crate) fn is_program(&self) -> bool {
        match (&self.item, &self.interface) {
            (Item::Core(..), _) => self.name == START,
            (Item::Component(..), Some(interface)) => interface.starts_with(RUN.0) && self.name == RUN.1,
            (Item::Component(..), None) => false,
        }
    }

    /// The WASI version of a handler of HTTP requests; `None` if it is none.
    pub(crate) fn handler(&self) -> Option<http::Version> {
        http::Version::of(self.interface.as_ref()?, &self.name)
    }

    /// The default name of its endpoint: its own name in kebab case, as in WIT; `run` for a program.
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

    /// True if a spec's `export` names this one. The version of the interface is optional.
    pub(crate) fn is_named(&self, wanted: &str) -> bool {
        match (&self.interface, wanted.split_once('#')) {
            (Some(interface), Some((wanted, name))) => {
                name == self.name && (wanted == interface || wanted == unversioned(interface))
            }
            (_, None) => wanted == self.name,
            (None, Some(_)) => false,
        }
    }

    /// Its type in WIT syntax, or a core type's in the text format.
    pub(crate) fn signature(&self) -> String {
        match &self.item {
            _ if self.handler().is_some() => http::SIGNATURE.to_owned(),
            Item::Core(_, ty) => scalar::Signature(ty).to_string(),
            Item::Component(_, ty) => component::Signature(ty).to_string(),
        }
    }

    /// Creates its call target: of `abi` if one is requested, else of the ABI that its type implies. The error is the
    /// reason why it cannot be called.
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
                (Some(_), _) => return Err("it handles HTTP requests: set `type: Http`".to_owned()),
                (None, _) => {
                    Target::Component(component::Target::new(*index, ty).map_err(|why| why.to_string())?)
                }
            },
            (Item::Core(index, ty), Code::Core(module)) if abi != Some(Abi::Scalar) => {
                let dataflare = DataFlare::of(module).filter(|_| DataFlare::is_entry(&self.name));
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
            Some(abi) if abi != target.abi() => {
                Err(format!("its ABI is {:?}, not {abi:?}; omit `abi` to use it as it is", target.abi()))
            }
            _ => Ok(target),
        }
    }
}

fn scalar(index: ModuleExport, ty: &FuncType) -> Result<Target, String> {
    scalar::Target::new(index, ty)
        .map(Target::Scalar)
        .ok_or_else(|| "its parameters and results are not all numbers".to_owned())
}

fn unversioned(interface: &str) -> &str {
    interface.split('@').next().unwrap_or_default()
}
