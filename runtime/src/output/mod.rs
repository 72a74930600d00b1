//! Output of guests: log lines, and captured stdout and stderr.

pub(crate) mod capture;
pub(crate) mod log;
pub(crate) mod stream;
