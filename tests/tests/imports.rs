//! Who may import whom, as CONTRIBUTING.md says: kept by reading the workspace's own manifests.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

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
    // Tests drive the built programs from outside; the custom resources are what they say to each other.
    ("samovar-testbed", &["samovar-crds"]),
    ("samovar-tests", &[]),
];

#[test]
fn crates_import_only_whom_they_may() {
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
