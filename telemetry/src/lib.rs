//! Logs, metrics and health: the same in every binary.

pub mod logs;
pub mod ops;
pub mod server;
