//! The node agent: obeys assignments, serves calls, reports.
//!
//! [`Agent`] serves what a [`Desired`] says and tells on its [`Board`] what is true. In a cluster ([`run::run`])
//! the desired state is this agent's assignments and the board is written to their statuses; `samovar run`
//! reads files and prints.

mod agent;
mod assignments;
mod board;
mod cache;
mod cgroup;
mod contents;
mod desired;
mod gauges;
mod grants;
mod guests;
mod inventory;
mod linger;
mod loader;
mod metrics;
mod modules;
pub mod options;
mod plan;
mod report;
mod routes;
pub mod run;
mod server;

#[cfg(fuzzing)]
pub mod fuzzing;

pub use agent::{Agent, AgentOptions, StartError};
pub use board::{Board, Report};
pub use contents::OperatorOptions;
pub use desired::{Desired, DesiredRevision, Key, Source};
