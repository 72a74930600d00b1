//! `samovar completion SHELL`: prints a shell completion script.

use clap_complete::Shell;

/// Print a completion script: `source <(samovar completion bash)`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run<C: clap::CommandFactory>(args: &Args) {
    clap_complete::generate(args.shell, &mut C::command(), "samovar", &mut std::io::stdout());
}
