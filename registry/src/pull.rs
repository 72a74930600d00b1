//! Pulls the one module of an image, in any of the forms in which modules are published.

use bytes::Bytes;

use crate::{
    Client, Error, Reference, digest,
    manifest::{ACCEPT, Descriptor, Image, Manifest},
    unpack::{Modules, unpack},
};

/// A module from an image.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its bytes.
    pub bytes: Bytes,
    /// Their digest: `sha256:<64 hexadecimal digits>`.
    pub digest: String,
    /// The kind in its preamble.
    pub kind: Kind,
}

/// The kind of a WebAssembly binary, by its preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A core module.
    Core,
    /// A component.
    Component,
}

impl Kind {
    /// Reads the preamble: magic, version, layer. `None` for anything that an agent would refuse too: it compiles
    /// core modules of version 1 only, and leaves a component's version to the parser.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.get(..8)? {
            [0, b'a', b's', b'm', 1, 0, 0, 0] => Some(Self::Core),
            [0, b'a', b's', b'm', _, _, 1, 0] => Some(Self::Component),
            _ => None,
        }
    }
}

/// Limit of layers in an image.
const MOST_LAYERS: usize = 64;
/// The annotation with the path of a layer that is a single file without a tar.
const TITLE: &str = "org.opencontainers.image.title";

impl Client {
    /// Pulls the one module of a pinned image; `module_path` selects one of several. Calls `progress` with the bytes
    /// received of the current layer, and with its size if the registry sends a `Content-Length`.
    pub async fn pull(
        &self,
        pinned: &Reference,
        module_path: Option<&str>,
        progress: impl Fn(u64, Option<u64>) + Send + Sync,
    ) -> Result<Module, Error> {
        let authorization = self.authorize(pinned).await?;
        let (bytes, media_type) = self.manifest(pinned, &authorization, ACCEPT).await?;
        let image = match Manifest::parse(pinned, &bytes, &media_type)? {
            Manifest::Image(image) => image,
            Manifest::Index(_) => {
                return Err(Error::unsupported(pinned, "it is an index, not an image; resolve it first"));
            }
        };
        let mut modules = Modules::new(module_path, self.max_module_bytes());
        for layer in layers(pinned, &image)? {
            if digest::parse(&layer.digest).is_none() {
                return Err(Error::unsupported(pinned, "one of its layers has no SHA-256 digest"));
            }
            let cap = self.max_module_bytes();
            if layer.size > cap {
                let why = format!(
                    "a layer of {} MiB is larger than the limit of {} MiB",
                    layer.size >> 20,
                    cap >> 20
                );
                return Err(Error::unsupported(pinned, why));
            }
            let blob = self.blob(pinned, &authorization, &layer.digest, cap, &progress).await?;
            let title = layer.annotations.get(TITLE).cloned();
            // Decompression is CPU-bound: it would block a worker thread of the runtime.
            let unpacked = tokio::task::spawn_blocking(move || unpack(modules, blob, title.as_deref())).await;
            modules = unpacked
                .map_err(|error| Error::unsupported(pinned, error.to_string()))?
                .map_err(|why| Error::unsupported(pinned, why))?;
        }
        let bytes = modules.one().map_err(|why| Error::unsupported(pinned, why))?;
        let kind = Kind::of(&bytes).ok_or_else(|| {
            Error::unsupported(pinned, "its module has no preamble of a core module or a component")
        })?;
        Ok(Module { digest: digest::of(&bytes), bytes, kind })
    }
}

/// Selects the layers that may hold the module: those with a media type of WebAssembly, else all.
fn layers<'a>(reference: &Reference, image: &'a Image) -> Result<Vec<&'a Descriptor>, Error> {
    if image.layers.len() > MOST_LAYERS {
        return Err(Error::unsupported(
            reference,
            format!("it has over {MOST_LAYERS} layers; a module needs one"),
        ));
    }
    let is_wasm = |layer: &&Descriptor| layer.media_type.contains("wasm");
    let named: Vec<_> = image.layers.iter().filter(is_wasm).collect();
    let layers = if named.is_empty() { image.layers.iter().collect() } else { named };
    if layers.is_empty() {
        return Err(Error::unsupported(reference, "it has no layers; push a module with `samovar push`"));
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_preambles_that_an_agent_compiles_have_a_kind() {
        for (bytes, kind) in [
            (&b"\0asm\x01\0\0\0"[..], Some(Kind::Core)),
            (b"\0asm\x0d\0\x01\0", Some(Kind::Component)),
            (b"\0asm\x0e\0\x01\0", Some(Kind::Component)),
            (b"\0asm\x02\0\0\0", None),
            (b"\0asm\x0d\0\x02\0", None),
            (b"\0asm\x01\0\0", None),
            (b"not wasm", None),
        ] {
            assert_eq!(Kind::of(bytes), kind, "{bytes:?}");
        }
    }
}
