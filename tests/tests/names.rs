//! The names of all tests, of every crate: short enough to be read in a list.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod sources;

use std::fs;

use cargo_metadata::MetadataCommand;
use sources::rust_files;

/// The most characters of a test's name.
const LONGEST: usize = 80;

#[test]
fn no_test_has_a_name_of_more_than_80_characters() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let folders = metadata.packages.iter().map(|package| package.manifest_path.parent().unwrap());
    let files = folders.flat_map(|folder| rust_files(folder.as_std_path()));
    let (mut found, mut long) = (0, Vec::new());
    for file in files {
        for name in tests(&fs::read_to_string(&file).unwrap()) {
            found += 1;
            if name.len() > LONGEST {
                long.push(format!("{}: {name} ({} characters)", file.display(), name.len()));
            }
        }
    }
    assert!(found > 300, "the scan finds only {found} tests");
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The names of the functions after `#[test]` and `#[tokio::test]`, with arguments or without.
fn tests(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = code.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let function = lines.by_ref().find_map(|line| line.split_once("fn ")).unwrap_or_default().1;
            found.push(function.split(['(', '<']).next().unwrap_or_default().to_owned());
        }
    }
    found
}
