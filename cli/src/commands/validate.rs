//! `samovar validate`: checks manifests against the CRD's schema and rules, as the API server does.

use std::{collections::BTreeMap, path::PathBuf};

use samovar_crds::{Data, LocalObject, Missing};
use serde_json::json;

use crate::{
    manifest::{self, DataObject, Document},
    output::{Failure, Output},
};

/// Validate manifests as `kubectl apply` does, without a cluster.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// YAML or JSON files, or folders of them.
    #[arg(required = true, value_name = "MANIFEST")]
    manifests: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    let mut mistakes = Vec::new();
    let mut plugins = Vec::new();
    let mut objects: BTreeMap<Option<String>, BTreeMap<LocalObject, Data>> = BTreeMap::new();
    for file in manifest::files(&args.manifests)? {
        for document in manifest::read(&file)? {
            match document {
                Ok(Document::Plugin(plugin)) => plugins.push((file.clone(), plugin)),
                Ok(Document::Data(DataObject { namespace, object, data })) => {
                    objects.entry(namespace).or_default().insert(object, data);
                }
                Ok(Document::Other { kind, name }) => {
                    let value = json!({ "file": file, "kind": kind, "name": name, "skipped": true });
                    output.print(&value, format_args!("{}: {kind}/{name} is not checked", file.display()));
                }
                Err(mistake) => mistakes.push(format!("{}: {mistake}", file.display())),
            }
        }
    }
    let no_plugin = plugins.is_empty();
    for (file, plugin) in plugins {
        let name = plugin.metadata.name.unwrap_or_default();
        let policy = plugin.spec.template.security_policy.unwrap_or_default();
        let objects = objects.get(&plugin.metadata.namespace);
        match policy.contents(objects.unwrap_or(&BTreeMap::new())) {
            // A ConfigMap or Secret without a manifest here may exist in the cluster.
            Ok(_) | Err(Missing::Object(_)) => {
                let value = json!({ "file": file, "plugin": name, "valid": true });
                output.print(&value, format_args!("{}: wasmplugin/{name} is valid", file.display()));
            }
            Err(missing) => mistakes.push(format!("{}: wasmplugin/{name}: {missing}", file.display())),
        }
    }
    if !mistakes.is_empty() {
        return Err(Failure::bad_input(mistakes.join("\n       ")));
    }
    if no_plugin {
        return Err(Failure::bad_input("no WasmPlugin in these manifests"));
    }
    Ok(())
}
