//! `samovar validate`: a manifest against the rules that the API server would apply.

use std::path::PathBuf;

use serde_json::json;

use crate::{
    manifest::{self, Document},
    output::{Failure, Output},
};

/// Check manifests as `kubectl apply` would, without a cluster.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// YAML files, or folders of them.
    #[arg(required = true, value_name = "MANIFEST")]
    manifests: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    let mut mistakes = Vec::new();
    let mut plugins = 0;
    for file in manifest::files(&args.manifests)? {
        for document in manifest::read(&file)? {
            match document {
                Ok(Document::Plugin(plugin)) => {
                    plugins += 1;
                    let name = plugin.metadata.name.unwrap_or_default();
                    let value = json!({ "file": file, "plugin": name, "valid": true });
                    output.print(&value, format_args!("{}: wasmplugin/{name} is valid", file.display()));
                }
                Ok(Document::Other { kind, name }) => {
                    let value = json!({ "file": file, "kind": kind, "name": name, "skipped": true });
                    output.print(&value, format_args!("{}: {kind}/{name} is not checked", file.display()));
                }
                Err(mistake) => mistakes.push(format!("{}: {mistake}", file.display())),
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(Failure::bad_input(mistakes.join("\n       ")));
    }
    if plugins == 0 {
        return Err(Failure::bad_input("there is no WasmPlugin in what was given"));
    }
    Ok(())
}
