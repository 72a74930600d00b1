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

pub use client::{Client, ClientOptions};
pub use error::Error;
pub use pull::{Kind, Module};
pub use reference::Reference;
