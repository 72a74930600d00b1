//! `samovar pull REF`: pulls a module from a registry into a file.

use std::path::PathBuf;

use serde_json::json;

use crate::{
    module::{self, RegistryArgs},
    output::{Failure, Output},
};

/// Pull the module of an image into a file.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image reference, by tag or digest.
    reference: String,
    /// The file to write. Default: the last part of the repository, with `.wasm`.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The path of the module, in an image with several.
    #[arg(long, value_name = "PATH")]
    module_path: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(crate) async fn run(args: Args, output: Output) -> Result<(), Failure> {
    let (pinned, bytes) =
        module::from_registry(&args.registry, &args.reference, args.module_path.as_deref()).await?;
    let file = args.file.unwrap_or_else(|| {
        let name = pinned.repository().rsplit('/').next().unwrap_or("module").to_owned();
        PathBuf::from(name + ".wasm")
    });
    std::fs::write(&file, &bytes).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
    let value = json!({ "reference": pinned.to_string(), "file": file, "bytes": bytes.len() });
    output.print(&value, format_args!("{} ({} bytes) from {pinned}", file.display(), bytes.len()));
    Ok(())
}
