//! What the fuzz targets in `fuzz/` reach of the server.

use samovar_runtime::CallError;

use crate::server::{problem::Problem, routes::RouteTable, target::target};

/// What a request was found to be for.
pub enum Routed {
    /// A plugin.
    Plugin,
    /// One of its functions, by its name.
    Function(String),
    /// Nothing that is here: the problem object.
    Problem(Vec<u8>),
}

/// What a request to a host and a path is for, where the plugin `text` in the namespace `demo` is all there is.
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
