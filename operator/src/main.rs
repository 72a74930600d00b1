//! The program `samovar-operator`.

use std::process::ExitCode;

use clap::Parser as _;
use samovar_operator::{options::Options, run};

fn main() -> ExitCode {
    let options = Options::parse();
    samovar_telemetry::logs::init(options.log_format, "info");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run::run(options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
