//! OCI registries: parse a reference, resolve it to a digest, pull the one module in it, push one.
//!
//! Every answer of a registry is bounded in size and time, and every byte of it is checked against its digest.

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

/// What the fuzz targets in `fuzz/` reach.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// The one module that layers hold, each after the one before.
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
