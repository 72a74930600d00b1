//! OCI registries: parses references, resolves tags to digests, pulls the one module of an image, pushes modules.
//!
//! Every response of a registry is bounded in size and time, and every byte of it is verified against its digest.

mod client;
mod credentials;
mod digest;
mod error;
mod manifest;
mod pull;
mod push;
mod reference;
mod resolve;
mod unpack;

/// Entry points of the fuzz targets in `fuzz/`.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Unpacks the layers in order and returns their one module.
    pub fn module(layers: Vec<Vec<u8>>, path: Option<&str>, cap: u64) -> Result<bytes::Bytes, String> {
        let modules = crate::unpack::Modules::new(path, cap);
        let all =
            layers.into_iter().try_fold(modules, |all, blob| crate::unpack::unpack(all, blob.into(), None));
        all?.one()
    }
}

pub use client::{Client, ClientOptions};
pub use error::Error;
pub use pull::{Kind, Module};
pub use reference::Reference;
