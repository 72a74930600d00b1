//! Logs, metrics and health, the same in every program.

pub mod logs;
pub mod ops;
pub mod server;
