//! The imports between crates, and between the modules of a crate, that docs/architecture.md allows.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use cargo_metadata::{DependencyKind, MetadataCommand};
use sources::rust_files;

/// Every crate of the workspace, and those of our crates that it may import outside its tests.
const MAY_IMPORT: [(&str, &[&str]); 10] = [
    ("samovar-crds", &[]),
    ("samovar-bench", &[]),
    ("samovar-runtime", &[]),
    ("samovar-registry", &[]),
    ("samovar-telemetry", &[]),
    ("samovar-operator", &["samovar-crds", "samovar-registry", "samovar-telemetry"]),
    ("samovar-node-agent", &["samovar-crds", "samovar-registry", "samovar-runtime", "samovar-telemetry"]),
    (
        "samovar-cli",
        &["samovar-crds", "samovar-node-agent", "samovar-registry", "samovar-runtime", "samovar-telemetry"],
    ),
    // Tests drive the built programs from outside, and speak to them through the custom resources.
    ("samovar-testbed", &["samovar-crds"]),
    ("samovar-tests", &["samovar-crds", "samovar-runtime", "samovar-testbed"]),
];

/// A crate, a module of it, and the modules that this one must not import.
const MUST_NOT_IMPORT: [(&str, &str, &[&str]); 7] = [
    ("runtime", "memory", &["abi", "plugin", "pool"]),
    ("runtime", "grants", &["abi", "host", "http", "plugin", "pool"]),
    ("runtime", "engine", &["abi", "plugin", "pool"]),
    ("runtime", "host", &["abi", "plugin", "pool"]),
    ("runtime", "output", &["abi", "plugin", "pool"]),
    ("runtime", "instance", &["abi", "plugin", "pool"]),
    ("node-agent", "plan", &["agent", "cluster", "disk", "load", "server"]),
];

/// The crates whose modules import each other in one direction.
const WITHOUT_CYCLES: [&str; 3] = ["node-agent", "operator", "runtime"];

/// The exceptions: a crate, a module of it, a module that this one imports although that closes a cycle, and the reason.
const CLOSES_A_CYCLE: [(&str, &str, &str, &str); 3] = [
    ("runtime", "spec", "abi", "a spec names the `Abi` of a function"),
    ("runtime", "spec", "engine", "a spec decides on the `Metering` of its module"),
    ("runtime", "spec", "grants", "a spec holds the `Grants` of its guests"),
];

/// The modules of the operator that have data in and data out, and so no client of the API server.
const PURE: [&str; 3] = ["validate", "place", "build"];

#[test]
fn crates_import_only_those_that_they_may() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let allowed =
        BTreeMap::from(MAY_IMPORT.map(|(name, may)| (name, may.iter().copied().collect::<BTreeSet<_>>())));

    let ours: BTreeSet<_> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(
        ours,
        allowed.keys().copied().collect(),
        "every crate of the workspace has a line in this test"
    );

    for package in &metadata.packages {
        let imports = package.dependencies.iter().filter(|dependency| {
            dependency.kind != DependencyKind::Development && ours.contains(dependency.name.as_str())
        });
        let imports: BTreeSet<_> = imports.map(|dependency| dependency.name.as_str()).collect();
        let forbidden: Vec<_> = imports.difference(&allowed[package.name.as_str()]).collect();
        assert!(
            forbidden.is_empty(),
            "{} imports {forbidden:?}; see CONTRIBUTING.md, where things are",
            package.name
        );
    }
}

#[test]
fn modules_import_none_that_they_must_not() {
    for (name, module, forbidden) in MUST_NOT_IMPORT {
        let modules = imports(name);
        let imported = modules.get(module).unwrap_or_else(|| panic!("{name} has no module {module}"));
        for module in forbidden {
            let file = imported.get(*module);
            assert!(
                file.is_none(),
                "{name}: {file:?} imports {module}; see docs/architecture.md, invariants"
            );
        }
    }
}

#[test]
fn no_modules_import_each_other_in_a_cycle() {
    for name in WITHOUT_CYCLES {
        let mut modules = imports(name);
        for (_, from, to, reason) in CLOSES_A_CYCLE.iter().filter(|(crate_name, ..)| *crate_name == name) {
            let needed = reached(&modules, to).contains(from)
                && modules.get_mut(*from).is_some_and(|imported| imported.remove(*to).is_some());
            assert!(needed, "{from} of {name} closes no cycle with {to} any more: strike \"{reason}\"");
        }
        let is_cyclic = |from: &str, to: &str| reached(&modules, to).contains(from);
        let cyclic = modules.iter().flat_map(|(from, imported)| {
            let back = imported.iter().filter(|(to, _)| is_cyclic(from, to));
            back.map(move |(to, file)| format!("{from} -> {to} ({file})"))
        });
        let cyclic: Vec<_> = cyclic.collect();
        assert!(cyclic.is_empty(), "imports of {name} that are part of a cycle: {cyclic:#?}");
    }
}

#[test]
fn the_pure_steps_of_the_operator_have_no_client() {
    for file in files("operator") {
        if file.module.first().is_some_and(|module| PURE.contains(&module.as_str())) {
            let words = file.code.split(|c: char| !c.is_alphanumeric() && c != '_');
            let found: BTreeSet<_> = words.filter(|word| ["Api", "Client"].contains(word)).collect();
            assert!(found.is_empty(), "operator::{} uses {found:?} of kube", file.module.join("::"));
        }
    }
}

/// A source file.
struct File {
    /// Its path as a module, without `crate`: empty for lib.rs.
    module: Vec<String>,
    /// Its text without comments and tests.
    code: String,
}

/// The files of a crate that belong to its library and are no tests.
fn files(name: &str) -> Vec<File> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
    let mut found = Vec::new();
    let mut tests = BTreeSet::new();
    for path in rust_files(&source) {
        let inside = path.strip_prefix(&source).unwrap().with_extension("");
        let mut module: Vec<_> = inside
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .filter(|part| part != "mod")
            .collect();
        match module.as_slice() {
            [root] if root == "main" => continue,
            [root] if root == "lib" => module.clear(),
            _ => {}
        }
        let (code, test_modules) = without_tests(&without_comments(&fs::read_to_string(path).unwrap()));
        tests.extend(test_modules.into_iter().map(|test| [module.clone(), vec![test]].concat()));
        found.push(File { module, code });
    }
    found.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
    found
}

fn without_comments(text: &str) -> String {
    // A URL's slashes follow a colon.
    let code = |line: &'_ str| match line.find("//") {
        Some(at) if !line[..at].ends_with(':') => line[..at].to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// The code before a test module, and the names of the test modules that are files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut parts = code.split("#[cfg(test)]");
    let (mut kept, mut modules) = (parts.next().unwrap_or_default().to_owned(), Vec::new());
    for part in parts {
        match part.trim_start().trim_start_matches("pub(crate) ").strip_prefix("mod ") {
            Some(module) => {
                let name = identifier(module);
                if module[name.len()..].starts_with(';') {
                    modules.push(name.to_owned());
                    kept.push_str(module);
                }
            }
            None => kept.push_str(part),
        }
    }
    (kept, modules)
}

/// The modules at the top of a crate, and those of them that each imports, with a file that does so.
type Modules = BTreeMap<String, BTreeMap<String, String>>;

fn imports(name: &str) -> Modules {
    let files = files(name);
    let mut modules: Modules =
        files.iter().filter_map(|file| Some((file.module.first()?.clone(), BTreeMap::new()))).collect();
    let root = files.iter().find(|file| file.module.is_empty()).map(|file| file.code.as_str());
    let reexports = reexports(root.unwrap_or_default());
    for file in &files {
        let Some(own) = file.module.first() else { continue };
        for head in heads(file) {
            let target = reexports.get(head.as_str()).cloned().unwrap_or(head);
            if target != *own && modules.contains_key(&target) {
                modules.get_mut(own).unwrap().insert(target, file.module.join("/"));
            }
        }
    }
    modules
}

/// The modules that a module imports, and that these import in turn.
fn reached<'a>(modules: &'a Modules, from: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for imported in modules.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(imported.as_str()) {
                next.push(imported);
            }
        }
    }
    found
}

/// The names that the root of a crate re-exports, each with its module.
fn reexports(root: &str) -> BTreeMap<&str, String> {
    let mut found = BTreeMap::new();
    for statement in root.split("pub use ").skip(1) {
        let path = statement.split(';').next().unwrap_or_default();
        let path = path.trim_start_matches("crate::").trim_start_matches("self::");
        for leaf in path.split(['{', '}', ',']) {
            let name = leaf.rsplit("::").next().unwrap_or_default();
            let name = name.rsplit(" as ").next().unwrap_or_default().trim();
            found.insert(name, identifier(path).to_owned());
        }
    }
    found
}

/// The first name after `crate` of each path in a file that starts at the crate or at a parent module.
fn heads(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in file.code.match_indices("crate::") {
        if is_start(&file.code, at) {
            found.extend(first_names(&file.code[at + "crate::".len()..]));
        }
    }
    for (at, _) in file.code.match_indices("super::") {
        if !is_start(&file.code, at) {
            continue;
        }
        let (mut rest, mut parent) = (&file.code[at..], file.module.as_slice());
        while let Some(above) = rest.strip_prefix("super::") {
            (rest, parent) = (above, &parent[..parent.len().saturating_sub(1)]);
        }
        match parent.first() {
            Some(module) => found.push(module.clone()),
            None => found.extend(first_names(rest)),
        }
    }
    found
}

/// True if a path starts here, rather than continues.
fn is_start(code: &str, at: usize) -> bool {
    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
}

/// The first name of a path, or of each path in braces.
fn first_names(path: &str) -> Vec<String> {
    if !path.starts_with('{') {
        return vec![identifier(path).to_owned()];
    }
    let (mut found, mut depth) = (Vec::new(), 0);
    for (at, c) in path.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (c == '{' || c == ',') {
            found.push(identifier(path[at + 1..].trim_start()).to_owned());
        }
    }
    found
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}
