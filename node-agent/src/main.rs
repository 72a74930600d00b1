//! `samovar-agent`: the node agent of a cluster.

use std::process::ExitCode;

use clap::Parser as _;
use samovar_node_agent::{cluster, options::Options};

fn main() -> ExitCode {
    // The agent starts this program for each module that it compiles.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "compile") {
        return samovar_runtime::compile_child();
    }
    let options = Options::parse();
    samovar_telemetry::logs::init(options.log_format, "info");
    let _ = rustls::crypto::ring::default_provider().install_default();
    // This runtime only controls: calls are served on a runtime of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(cluster::run(options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
