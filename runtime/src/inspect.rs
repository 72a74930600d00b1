//! Inspects a module without running it: its functions, its imports, and the grants that these need.

use std::sync::Arc;

use crate::{
    Artifact, Function, Kind, Limits, engine::artifact::Code, functions, grants::network, host::dataflare,
};

/// The functions and imports of a module.
pub struct Inspection {
    /// A core module or a component.
    pub kind: Kind,
    /// All functions that it exports, including those that cannot be called.
    pub functions: Vec<Arc<Function>>,
    /// All of its imports.
    pub imports: Vec<Import>,
}

/// One import of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The interface: `wasi:clocks/wall-clock@0.2.6`. For a core module `wasi_snapshot_preview1`, or module and name.
    pub name: String,
    /// False if the host does not provide it: the module is refused.
    pub provided: bool,
    /// The grants without which it does nothing: `securityPolicy.network`.
    pub grants: Vec<&'static str>,
    /// True if the module is refused without those grants.
    pub required: bool,
    /// The effect of its functions.
    pub note: &'static str,
}

const ENV: &str = "securityPolicy.env";
const FILES: &str = "securityPolicy.files";
const NETWORK: &str = "securityPolicy.network";

/// The WASI that the host provides: the prefix of an import's name, the grant that it needs, and its effect.
const PROVIDED: [(&str, Option<&str>, &str); 17] = [
    ("wasi:io/", None, "works"),
    ("wasi:clocks/", None, "works"),
    ("wasi:random/", None, "works"),
    ("wasi:config/store@0.2.0-rc.1", None, "holds the top level of `spec.config`"),
    ("wasi:cli/stdout", None, "becomes log lines; a program's is its answer"),
    ("wasi:cli/stderr", None, "becomes log lines"),
    ("wasi:cli/stdin", None, "is empty; a program's is the body"),
    ("wasi:cli/environment", Some(ENV), "has the granted variables, and a program's arguments"),
    ("wasi:cli/exit", None, "ends the call"),
    ("wasi:cli/terminal", None, "has no terminal"),
    ("wasi:cli/", None, "works"),
    ("wasi:filesystem/", Some(FILES), "has the granted folders, and no others"),
    ("wasi:sockets/", Some(NETWORK), "reaches the hosts that are granted with a port, and no others"),
    ("wasi:http/types", None, "works"),
    ("wasi:http/outgoing-handler", Some(NETWORK), "reaches the hosts that are granted, and no others"),
    ("wasi:http/client", Some(NETWORK), "reaches the hosts that are granted, and no others"),
    (
        PREVIEW1,
        None,
        "output becomes log lines, or a program's answer; has the granted files and environment, and no network",
    ),
];

const PREVIEW1: &str = "wasi_snapshot_preview1";

/// Provided only in WASI 0.2, at any patch level; all else in 0.3 too.
const ONLY_IN_0_2: [&str; 2] = ["wasi:filesystem/", "wasi:sockets/"];

impl Inspection {
    /// Inspects an artifact.
    pub fn of(artifact: &Artifact) -> Self {
        let mut imports: Vec<_> = match artifact.code() {
            Code::Core(module) => {
                let preview1 = Import::preview1(module);
                let others = module.imports().filter(|import| import.module() != PREVIEW1);
                let others =
                    others.map(|import| Import::new(format!("{}.{}", import.module(), import.name())));
                preview1.into_iter().chain(others).collect()
            }
            Code::Component(component) => {
                let engine = component.engine();
                let imports = component.component_type();
                imports.imports(engine).map(|(name, _)| Import::new(name.to_owned())).collect()
            }
        };
        imports.sort_by(|a, b| a.name.cmp(&b.name));
        imports.dedup();
        let limits = Limits::default();
        let mut functions = functions::every(artifact, &limits);
        if let Ok(handler) = functions::handler(artifact, &limits) {
            functions.retain(|function| function.export() != handler.export());
            functions.insert(0, Arc::new(handler));
        }
        Self { kind: artifact.kind(), functions, imports }
    }
}

impl Import {
    fn new(name: String) -> Self {
        let provided = PROVIDED.into_iter().find(|(start, ..)| {
            let in_version =
                || name.contains("@0.2.") || name.contains("@0.3.") && !ONLY_IN_0_2.contains(start);
            name.starts_with(start) && (!name.starts_with("wasi:") || in_version())
        });
        let is_dataflare = name
            .split_once('.')
            .is_some_and(|(module, name)| module == dataflare::MODULE && dataflare::NAMES.contains(&name));
        let provided = provided.or(is_dataflare.then_some(("", None, "works")));
        let (grant, note) = provided
            .map_or((None, "is not provided: the module is refused"), |(_, grant, note)| (grant, note));
        let required = network::requires_network(&name);
        Self { name, provided: provided.is_some(), grants: grant.into_iter().collect(), required, note }
    }

    /// Preview 1 as one import. Its imported functions tell which grants it needs.
    fn preview1(module: &wasmtime::Module) -> Option<Self> {
        let names =
            || module.imports().filter(|import| import.module() == PREVIEW1).map(|import| import.name());
        names().next()?;
        let grant = |grant, start| names().any(|name| name.starts_with(start)).then_some(grant);
        let grants = [grant(ENV, "environ_"), grant(FILES, "path_")].into_iter().flatten().collect();
        Some(Self { grants, ..Self::new(PREVIEW1.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_provided_only_in_supported_versions() {
        for (name, provided) in [
            ("wasi:cli/environment@0.2.6", true),
            ("wasi:sockets/tcp@0.2.0", true),
            ("wasi:clocks/system-clock@0.3.1", true),
            ("wasi:clocks/wall-clock@0.4.0", false),
            ("wasi:http/types@0.2.12", true),
            ("wasi:http/outgoing-handler@0.2.6", true),
            ("wasi:http/client@0.3.0", true),
            ("wasi:filesystem/types@0.3.0", false),
            ("wasi:keyvalue/store@0.2.0", false),
            ("wasi_snapshot_preview1", true),
            ("wasi:config/store@0.2.0-rc.1", true),
            ("wasi:config/store@0.2.0-draft", false),
            ("env.log", true),
            ("env.secret", false),
        ] {
            assert_eq!(Import::new(name.to_owned()).provided, provided, "{name}");
        }
    }

    #[test]
    fn an_import_names_its_grants_and_if_they_are_required() {
        for (name, grants, required) in [
            ("wasi:http/outgoing-handler@0.2.6", &[NETWORK][..], true),
            ("wasi:http/types@0.2.6", &[], false),
            ("wasi:sockets/tcp@0.2.6", &[NETWORK], false),
            ("wasi:filesystem/preopens@0.2.6", &[FILES], false),
            ("wasi:cli/environment@0.2.6", &[ENV], false),
            ("wasi:clocks/wall-clock@0.2.6", &[], false),
        ] {
            let import = Import::new(name.to_owned());
            assert_eq!((&*import.grants, import.required), (grants, required), "{name}");
        }
    }
}
