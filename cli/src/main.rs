//! The `samovar` command: parses the arguments, dispatches to a subcommand, and maps its failure to an exit code.

mod commands;
mod manifest;
mod module;
mod output;
mod progress;
mod sources;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    commands::{completion, crds, inspect, invoke, pull, push, run, validate},
    output::{Failure, Output},
};

/// Run WebAssembly functions, on this machine or on Kubernetes.
///
/// Exit codes: 0 success; 1 failure; 2 wrong usage or invalid input; 3 a plugin is not ready (`run --once`); 4 the
/// called function returned an error.
#[derive(Parser)]
#[command(name = "samovar", version, max_term_width = 110)]
struct Cli {
    /// Output format of results and errors.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Invoke(invoke::Args),
    Inspect(inspect::Args),
    Push(push::Args),
    Pull(pull::Args),
    Validate(validate::Args),
    Crds(crds::Args),
    Completion(completion::Args),
    /// Compile the module on stdin; the agent starts this as its compile child.
    #[command(hide = true)]
    Compile,
}

fn main() -> ExitCode {
    let Cli { output, command } = Cli::parse();
    if matches!(command, Command::Compile) {
        return samovar_runtime::compile_child();
    }
    // Fails only if a provider is installed already, and that one serves too.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match command {
        Command::Run(args) => run::run(&args, output),
        Command::Invoke(args) => block_on(invoke::run(args, output)),
        Command::Inspect(args) => block_on(inspect::run(args, output)),
        Command::Push(args) => block_on(push::run(args, output)),
        Command::Pull(args) => block_on(pull::run(args, output)),
        Command::Validate(args) => validate::run(&args, output),
        Command::Crds(args) => crds::run(&args, output),
        Command::Completion(args) => {
            completion::run::<Cli>(&args);
            Ok(())
        }
        Command::Compile => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the async runtime could not be started: {error}")))?;
    runtime.block_on(work)
}
