//! `samovar push FILE REF`: pushes a module to a registry as a CNCF Wasm OCI artifact.

use std::path::PathBuf;

use samovar_registry::Reference;
use serde_json::json;

use crate::{
    module::{self, RegistryArgs},
    output::{Failure, Output},
    progress,
};

/// Push a module to a registry, as a CNCF Wasm OCI artifact.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The module: a `.wasm` file, or `.wat` in the text format.
    file: PathBuf,
    /// The image reference, for example `registry.example.com/text:1.2`.
    reference: Reference,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(crate) async fn run(args: Args, output: Output) -> Result<(), Failure> {
    let bytes = module::from_file(&args.file)?;
    let spinner = progress::spinner("pushing");
    let pinned = args.registry.client()?.push(&args.reference, bytes).await.map_err(Failure::failed)?;
    spinner.finish_and_clear();
    output.print(&json!({ "reference": pinned.to_string() }), &pinned);
    Ok(())
}
