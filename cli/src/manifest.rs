//! Manifests: which files there are, and what their documents say.

use std::path::{Path, PathBuf};

use samovar_crds::WasmPlugin;
use serde_json::Value;

use crate::output::Failure;

/// One YAML document.
pub(crate) enum Document {
    /// A plugin.
    Plugin(Box<WasmPlugin>),
    /// An object that is somebody else's, such as a Namespace.
    Other { kind: String, name: String },
}

/// The largest manifest that is read, in bytes: as large as the API server takes.
const LARGEST: u64 = 3 << 20;

/// The manifests at `paths`: files as they are, and the `.yaml`, `.yml` and `.json` files of folders, in order.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let refuse = |error: std::io::Error| Failure::bad_input(format!("{}: {error}", path.display()));
        if !std::fs::metadata(path).map_err(refuse)?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside: Vec<_> = std::fs::read_dir(path)
            .map_err(refuse)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file() && is_manifest(path))
            .collect();
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// Whether a file in a folder is taken for a manifest.
pub(crate) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// The documents of one manifest, each read or refused for itself.
pub(crate) fn read(file: &Path) -> Result<Vec<Result<Document, String>>, Failure> {
    let refuse = |error: String| Failure::bad_input(format!("{}: {error}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| refuse(error.to_string()))?.len();
    if size > LARGEST {
        return Err(refuse(format!("it is larger than a manifest may be ({LARGEST} bytes)")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| refuse(error.to_string()))?;
    Ok(documents.iter().filter(|document| !document.is_null()).map(document).collect())
}

fn document(value: &Value) -> Result<Document, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let (version, kind) = (text(&value["apiVersion"]), text(&value["kind"]));
    let name = text(&value["metadata"]["name"]);
    if kind.is_empty() || version.is_empty() {
        return Err("a document has no `apiVersion` or `kind`; every Kubernetes object has both".to_owned());
    }
    if !version.starts_with("samovar.dev/") {
        return Ok(Document::Other { kind, name });
    }
    if version != samovar_crds::API_VERSION || kind != "WasmPlugin" {
        return Err(format!(
            "{kind} of {version} is not known; plugins are of kind WasmPlugin and {}",
            samovar_crds::API_VERSION
        ));
    }
    WasmPlugin::from_manifest(value)
        .map(|plugin| Document::Plugin(Box::new(plugin)))
        .map_err(|mistakes| format!("wasmplugin/{name}: {mistakes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Vec<Result<Document, String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).unwrap_or_else(|_| panic!("{text} is no YAML"))
    }

    #[test]
    fn one_bad_document_does_not_hide_the_others() {
        let documents = read_text(
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: demo }\n---\n\
             apiVersion: samovar.dev/v1alpha1\nkind: WasmPlugin\nmetadata: { name: a }\nspec: { imag: x }\n---\n\
             apiVersion: samovar.dev/v1alpha1\nkind: WasmPlugin\nmetadata: { name: b }\nspec: { image: x }\n",
        );
        assert!(matches!(&documents[0], Ok(Document::Other { kind, .. }) if kind == "Namespace"));
        assert!(
            matches!(&documents[1], Err(mistake) if mistake == "wasmplugin/a: unknown field `spec.imag`")
        );
        assert!(matches!(&documents[2], Ok(Document::Plugin(plugin)) if plugin.spec.template.image == "x"));
    }

    #[test]
    fn a_kind_that_is_not_ours_to_know_is_refused() {
        let documents = read_text("apiVersion: samovar.dev/v2\nkind: WasmPlugin\n---\nkind: Pod\n");
        assert!(documents.iter().all(Result::is_err));
    }
}
