//! Hostile guests against the built programs: none stops the agent, delays its neighbours or reads their data.
//!
//! `make test-hostile` brings the built program.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod agent;
mod artifacts;
mod behaviours;
mod binary;
mod canaries;
mod cases;
mod modules;
mod neighbour;
mod numbers;
mod odd;
mod trial;
mod upstream;

use std::path::{Path, PathBuf};

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A count that a longer run sets in the environment.
fn count(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |count| count.parse().unwrap())
}
