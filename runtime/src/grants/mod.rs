//! What a plugin's policy lets its guests do beside computing: a file for each grant, each denied until it is given.
//!
//! A grant has one lifecycle: it is linked once for all plugins, checked when a plugin is loaded, and built for each
//! instance. Clocks and random numbers every guest has.

mod env;
pub(crate) mod files;
pub(crate) mod network;

pub use env::{EnvGrant, EnvVar, InvalidEnv};
pub use files::{FilesGrant, InvalidMount, Mount, MountSource};
pub use network::{InvalidHost, NetworkGrant, NetworkOptions};

/// What the guests of a plugin may do; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Environment variables.
    pub env: EnvGrant,
    /// What they find in their file system.
    pub files: FilesGrant,
    /// The hosts that they may reach. `None`: what imports a network interface that needs this is refused; with no
    /// host in it, every request is.
    pub network: Option<NetworkGrant>,
}
