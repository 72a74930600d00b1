//! Finds manifest files, and parses and validates their documents.

use std::path::{Path, PathBuf};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use samovar_crds::{Data, LocalObject, ObjectKind, WasmPlugin, config_map_data, secret_data};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::output::Failure;

/// One YAML document.
pub(crate) enum Document {
    /// A valid plugin.
    Plugin(Box<WasmPlugin>),
    /// A ConfigMap or a Secret.
    Data(DataObject),
    /// An object of another API, such as a Namespace.
    Other { kind: String, name: String },
}

/// A ConfigMap or a Secret with its data.
pub(crate) struct DataObject {
    pub(crate) namespace: Option<String>,
    pub(crate) object: LocalObject,
    pub(crate) data: Data,
}

impl DataObject {
    fn new(kind: ObjectKind, metadata: ObjectMeta, data: Data) -> Self {
        let name = metadata.name.unwrap_or_default();
        Self { namespace: metadata.namespace, object: LocalObject { kind, name }, data }
    }
}

/// Size limit of a manifest, in bytes: that of a request to the API server.
const LARGEST: u64 = 3 << 20;

/// Lists the manifests at `paths`: each file, and the `.yaml`, `.yml` and `.json` files of each folder, sorted.
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

/// True if a file in a folder counts as a manifest.
pub(crate) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// Parses the documents of one manifest. An invalid document does not hide the others.
pub(crate) fn read(file: &Path) -> Result<Vec<Result<Document, String>>, Failure> {
    let refuse = |error: String| Failure::bad_input(format!("{}: {error}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| refuse(error.to_string()))?.len();
    if size > LARGEST {
        return Err(refuse(format!("it is larger than the limit of a manifest ({LARGEST} bytes)")));
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
    match (version.as_str(), kind.as_str()) {
        ("v1", "ConfigMap") => {
            let read: ConfigMap = object(value, &kind, &name)?;
            let metadata = read.metadata.clone();
            return Ok(Document::Data(DataObject::new(
                ObjectKind::ConfigMap,
                metadata,
                config_map_data(read),
            )));
        }
        ("v1", "Secret") => {
            let read: Secret = object(value, &kind, &name)?;
            let metadata = read.metadata.clone();
            return Ok(Document::Data(DataObject::new(ObjectKind::Secret, metadata, secret_data(read))));
        }
        (version, _) if !version.starts_with("samovar.dev/") => return Ok(Document::Other { kind, name }),
        _ => {}
    }
    if version != samovar_crds::API_VERSION || kind != "WasmPlugin" {
        return Err(format!(
            "unknown kind {kind} of {version}; a plugin has kind WasmPlugin and apiVersion {}",
            samovar_crds::API_VERSION
        ));
    }
    WasmPlugin::from_manifest(value)
        .map(|plugin| Document::Plugin(Box::new(plugin)))
        .map_err(|mistakes| format!("wasmplugin/{name}: {mistakes}"))
}

/// Parses a core Kubernetes object. The error omits serde's message, which may quote a secret.
fn object<K: DeserializeOwned>(value: &Value, kind: &str, name: &str) -> Result<K, String> {
    serde_json::from_value(value.clone()).map_err(|_| {
        format!("{kind}/{name} is invalid: values of `data` and `stringData` are strings, and those of bytes are base64")
    })
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
    fn an_invalid_document_does_not_hide_the_others() {
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
    fn an_unknown_kind_or_version_of_ours_is_refused() {
        let documents = read_text("apiVersion: samovar.dev/v2\nkind: WasmPlugin\n---\nkind: Pod\n");
        assert!(documents.iter().all(Result::is_err));
    }
}
