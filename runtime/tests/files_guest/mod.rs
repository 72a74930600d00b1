//! The guest that performs a file operation for each line of its input, and its grants.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use samovar_runtime::{
    CallError, FilesGrant, Format, Grants, Limits, Mount, MountSource, Plugin, PluginSpec,
};

use crate::support::{self, call_as, text};

/// The guest as a core module of preview 1, and as a component of WASI 0.2.
pub const GUESTS: [&str; 2] = ["tests/guests/files/files.preview1.wasm", "tests/guests/files/files.wasm"];

pub const KIB: u64 = 1 << 10;

pub fn words(path: &str, files: &[(&str, &str)]) -> Mount {
    let file =
        |&(name, content): &(&str, &str)| (name.to_owned(), Bytes::copy_from_slice(content.as_bytes()));
    let files: BTreeMap<_, _> = files.iter().map(file).collect();
    Mount { path: path.to_owned(), source: MountSource::ReadOnly(Arc::new(files)) }
}

pub fn scratch(path: &str, size_limit: u64) -> Mount {
    Mount { path: path.to_owned(), source: MountSource::Scratch { size_limit } }
}

pub fn files(mounts: &[Mount]) -> FilesGrant {
    FilesGrant::new(mounts).unwrap()
}

pub fn spec(mounts: &[Mount]) -> PluginSpec {
    let limits = Limits { timeout: Duration::from_secs(20), ..Limits::default() };
    let grants = Grants { files: files(mounts), ..Grants::default() };
    PluginSpec { limits, grants, ..support::spec() }
}

/// Makes one call; returns the answer to each line.
pub async fn run(plugin: &Plugin, script: &[&str]) -> Result<Vec<String>, CallError> {
    let answer = call_as(plugin, "run", script.join("\n"), Format::Text).await?;
    Ok(text(&answer).lines().map(str::to_owned).collect())
}
