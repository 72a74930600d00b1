//! The node agent: obeys assignments, serves calls, reports.
//!
//! [`Agent`] serves what a [`Desired`] says and tells on its [`Reports`] what is true. In a cluster ([`cluster::run`])
//! the desired state is this agent's assignments and the board is written to their statuses; `samovar run`
//! reads files and prints.

mod agent;
mod backoff;
mod cgroup;
pub mod cluster;
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
