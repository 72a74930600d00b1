//! The server's entry points for the fuzz targets in `fuzz/`.

use samovar_runtime::CallError;

use crate::server::{problem::Problem, routes::RouteTable, target::target};

/// The outcome of routing a request.
pub enum Routed {
    /// It is for a plugin.
    Plugin,
    /// It is for a function of this name.
    Function(String),
    /// It is for nothing on this agent: the problem object.
    Problem(Vec<u8>),
}

/// Routes a request by host and path, on an agent whose only plugin is `text` in the namespace `demo`.
pub fn route(host: Option<&str>, path: &str) -> Routed {
    let not_ready = std::iter::once(("demo", "text", String::new()));
    let routes = RouteTable::new(std::iter::empty(), not_ready);
    match target(host, path, &routes) {
        Ok(target) => target.name.map_or(Routed::Plugin, |name| Routed::Function(name.to_owned())),
        Err(problem) => Routed::Problem(problem.json()),
    }
}

/// The problem object of a call that failed.
pub fn problem(error: CallError) -> Vec<u8> {
    Problem::from(error).json()
}
