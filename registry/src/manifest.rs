//! Image manifests and indexes, and the choice of the manifest that holds the module.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, Reference};

/// The `Accept` header of manifest requests.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json";

/// An image manifest, or an index of manifests.
pub(crate) enum Manifest {
    Image(Image),
    Index(Index),
}

#[derive(Debug, Deserialize)]
pub(crate) struct Image {
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

/// A content descriptor of a blob or a manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The platform of a manifest in an index.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
}

impl Manifest {
    pub(crate) fn parse(reference: &Reference, bytes: &[u8], media_type: &str) -> Result<Self, Error> {
        let refuse = |error: serde_json::Error| {
            Error::unsupported(reference, format!("its manifest is invalid ({error}); push the image again"))
        };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(refuse)?;
        let own = value["mediaType"].as_str().unwrap_or(media_type);
        let is_index =
            own.contains("index") || own.contains("manifest.list") || value["manifests"].is_array();
        if is_index {
            serde_json::from_value(value).map(Self::Index).map_err(refuse)
        } else {
            serde_json::from_value(value).map(Self::Image).map_err(refuse)
        }
    }
}

impl Index {
    /// Selects the manifest that holds the module: the first for WebAssembly, or the only one there is.
    pub(crate) fn module(&self, reference: &Reference) -> Result<&Descriptor, Error> {
        let images: Vec<_> = self.manifests.iter().filter(|entry| !entry.is_attestation()).collect();
        let for_wasm: Vec<_> = images.iter().filter(|entry| entry.is_for_wasm()).collect();
        match (&for_wasm[..], &images[..]) {
            ([one], _) => Ok(one),
            // The order of an index is the publisher's preference among wasip1, wasip2 and others.
            ([first, ..], _) => Ok(first),
            ([], [only]) => Ok(only),
            ([], []) => Err(Error::unsupported(reference, "its index is empty; push a module")),
            ([], several) => {
                let platforms: Vec<_> = several.iter().map(|entry| entry.platform_name()).collect();
                let why = format!(
                    "its index has {}, and none of these platforms is WebAssembly; publish it for wasi/wasm",
                    platforms.join(", ")
                );
                Err(Error::unsupported(reference, why))
            }
        }
    }
}

impl Descriptor {
    fn is_for_wasm(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| {
            matches!(platform.architecture.as_str(), "wasm" | "wasm32" | "wasm64")
                || platform.os.starts_with("wasi")
        })
    }

    /// True for metadata that build tools add to an index, such as provenance.
    fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }

    fn platform_name(&self) -> String {
        self.platform.as_ref().map_or_else(
            || "no platform".to_owned(),
            |Platform { architecture, os }| format!("{os}/{architecture}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(platforms: &[(&str, &str)]) -> Result<usize, String> {
        let manifests = platforms.iter().enumerate().map(|(at, (os, architecture))| Descriptor {
            media_type: String::new(),
            digest: at.to_string(),
            size: 0,
            platform: Some(Platform { architecture: (*architecture).to_owned(), os: (*os).to_owned() }),
            annotations: BTreeMap::new(),
        });
        let index = Index { manifests: manifests.collect() };
        let reference = "r.example.com/text:1".parse().unwrap();
        index.module(&reference).map(|entry| entry.digest.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_index_resolves_to_its_webassembly_manifest_or_its_only_one() {
        assert_eq!(picked(&[("linux", "amd64"), ("wasi", "wasm")]), Ok(1));
        assert_eq!(picked(&[("linux", "amd64"), ("wasip2", "wasm32"), ("wasip1", "wasm32")]), Ok(1));
        assert_eq!(picked(&[("linux", "amd64"), ("unknown", "unknown")]), Ok(0));
        assert!(
            picked(&[("linux", "amd64"), ("linux", "arm64")])
                .unwrap_err()
                .contains("linux/amd64, linux/arm64")
        );
        assert!(picked(&[]).is_err());
    }
}
