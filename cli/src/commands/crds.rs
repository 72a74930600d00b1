//! `samovar crds`: prints the custom resource definitions as YAML.

use std::path::PathBuf;

use crate::output::{Failure, Output};

/// Print the custom resource definitions: `samovar crds | kubectl apply --server-side -f -`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write each definition to a file of its own in this folder, instead of printing it.
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    let mut documents = Vec::new();
    for crd in samovar_crds::all() {
        let yaml = serde_saphyr::to_string(&crd).map_err(Failure::failed)?;
        if let Some(folder) = &args.write {
            let file = folder.join(format!("{}.yaml", crd.spec.names.plural));
            let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, &yaml));
            written.map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
        } else if output == Output::Json {
            output.print(&crd, "");
        } else {
            documents.push(yaml);
        }
    }
    if !documents.is_empty() {
        print!("{}", documents.join("---\n"));
    }
    Ok(())
}
