//! Pushes a module as a CNCF [Wasm OCI artifact](https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/).
//!
//! The artifact has a config of `application/vnd.wasm.config.v0+json` with the module's kind, and one layer of
//! `application/wasm`.

use std::collections::BTreeMap;

use oci_client::{
    RegistryOperation,
    client::{Config, ImageLayer},
    manifest::OciImageManifest,
};
use serde_json::json;

use crate::{Client, Error, Kind, Reference, client::of_oci, digest};

const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";

impl Client {
    /// Pushes a module and returns its reference, pinned to the digest.
    pub async fn push(&self, reference: &Reference, module: Vec<u8>) -> Result<Reference, Error> {
        let Some(kind) = Kind::of(&module) else {
            return Err(Error::unsupported(
                reference,
                "the file has no preamble of a core module or a component",
            ));
        };
        let layer_digest = digest::of(&module);
        let (os, component) = match kind {
            Kind::Core => ("wasip1", None),
            Kind::Component => ("wasip2", Some(json!({ "exports": [], "imports": [] }))),
        };
        let mut config = json!({ "architecture": "wasm", "os": os, "layerDigests": [layer_digest] });
        if let Some(component) = component {
            config["component"] = component;
        }
        let config = Config::new(config.to_string(), CONFIG.to_owned(), None);
        let layer = ImageLayer::new(module, LAYER.to_owned(), None);
        let annotations: Option<BTreeMap<String, String>> = None;
        let layers = [layer];
        let manifest = OciImageManifest::build(&layers, &config, annotations);
        let credentials = self.credentials(reference)?;
        let oci = self.oci(reference);
        let failed = |error| of_oci(reference, error);
        oci.auth(reference.inner(), &credentials, RegistryOperation::Push).await.map_err(failed)?;
        oci.push(reference.inner(), &layers, config, &credentials, Some(manifest)).await.map_err(failed)?;
        self.resolve(reference).await
    }
}
