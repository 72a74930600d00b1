//! What a module is, before anybody deploys it: its functions, and what it asks of its host.

use std::sync::Arc;

use crate::{Artifact, Function, Kind, Limits, artifact::Code, dataflare, functions};

/// What a module is and wants, found without running it.
pub struct Inspection {
    /// A core module or a component.
    pub kind: Kind,
    /// Every function that it exports, those that cannot be called included.
    pub functions: Vec<Arc<Function>>,
    /// What it imports.
    pub imports: Vec<Import>,
}

/// One thing that a module imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The interface: `wasi:clocks/wall-clock@0.2.6`. Of a core module `wasi_snapshot_preview1`, or module and name.
    pub name: String,
    /// Whether guests are given it. A module that imports something else is refused.
    pub given: bool,
    /// What it can do with it.
    pub note: &'static str,
}

/// WASI as guests are given it, by the start of an import's name, and what works of it.
const GIVEN: [(&str, &str); 12] = [
    ("wasi:io/", "works"),
    ("wasi:http/types", "works"),
    ("wasi:clocks/", "works"),
    ("wasi:random/", "works"),
    ("wasi:config/store@0.2.0-rc.1", "holds the top level of `spec.config`"),
    ("wasi:cli/stdout", "becomes log lines; a program's is its answer"),
    ("wasi:cli/stderr", "becomes log lines"),
    ("wasi:cli/stdin", "is empty; a program's is the body"),
    ("wasi:cli/", "has nothing in it, but for a program's arguments: no environment, no terminal"),
    ("wasi:filesystem/", "has nothing in it: no files"),
    ("wasi:sockets/", "refuses everything: no network"),
    (
        PREVIEW1,
        "output becomes log lines, or a program's answer; no files, no network, no environment but SAMOVAR_CONFIG",
    ),
];

const PREVIEW1: &str = "wasi_snapshot_preview1";

/// The WASI versions that are given: any patch level.
const VERSIONS: [&str; 2] = ["@0.2.", "@0.3."];

impl Inspection {
    /// Looks at an artifact.
    pub fn of(artifact: &Artifact) -> Self {
        let imports = match artifact.code() {
            Code::Core(module) => {
                let name = |import: wasmtime::ImportType<'_>| match import.module() {
                    PREVIEW1 => PREVIEW1.to_owned(),
                    other => format!("{other}.{}", import.name()),
                };
                module.imports().map(name).collect::<Vec<_>>()
            }
            Code::Component(component) => {
                let engine = component.engine();
                component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect()
            }
        };
        let mut imports: Vec<_> = imports.into_iter().map(Import::new).collect();
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
        let given = GIVEN.into_iter().find(|(start, _)| {
            let is_given = |version| name.contains(version);
            name.starts_with(start) && (!name.starts_with("wasi:") || VERSIONS.into_iter().any(is_given))
        });
        let is_dataflare = name
            .split_once('.')
            .is_some_and(|(module, name)| module == dataflare::MODULE && dataflare::NAMES.contains(&name));
        let given = given.or(is_dataflare.then_some(("", "works")));
        let note = given.map_or("is not given: the module is refused", |(_, note)| note);
        Self { name, given: given.is_some(), note }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_given_only_in_the_versions_that_are() {
        for (name, given) in [
            ("wasi:cli/environment@0.2.6", true),
            ("wasi:sockets/tcp@0.2.0", true),
            ("wasi:clocks/system-clock@0.3.1", true),
            ("wasi:clocks/wall-clock@0.4.0", false),
            ("wasi:http/types@0.2.12", true),
            ("wasi:http/outgoing-handler@0.2.6", false),
            ("wasi_snapshot_preview1", true),
            ("wasi:config/store@0.2.0-rc.1", true),
            ("wasi:config/store@0.2.0-draft", false),
            ("env.log", true),
            ("env.secret", false),
        ] {
            assert_eq!(Import::new(name.to_owned()).given, given, "{name}");
        }
    }
}
