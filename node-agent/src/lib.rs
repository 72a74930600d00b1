//! The node agent: loads the revisions assigned to it, serves their calls, reports their state.
//!
//! [`Agent`] serves a [`Desired`] state and publishes the state of each revision in its [`Reports`]. In a cluster
//! ([`cluster::run`]) the desired state comes from this agent's assignments and the reports go to their statuses;
//! `samovar run` reads files and prints.

mod agent;
mod backoff;
mod cgroup;
pub mod cluster;
mod control;
mod desired;
mod disk;
mod guest_runtime;
mod load;
pub mod options;
mod plan;
mod reports;
mod server;

#[cfg(fuzzing)]
pub mod fuzzing;

pub use agent::{Agent, AgentOptions, StartError};
pub use desired::{Desired, DesiredRevision, Key, Source};
pub use load::contents::OperatorOptions;
pub use reports::{Report, Reports};
