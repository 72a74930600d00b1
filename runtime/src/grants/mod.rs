//! Grants: the capabilities that `securityPolicy` gives the guests of a plugin, each denied until it is granted.
//!
//! Each grant has a file of its own and one lifecycle: it is linked once for all plugins, checked when a plugin is
//! loaded, and built for each instance. Every guest has clocks and random numbers.

mod env;
pub(crate) mod files;
pub(crate) mod network;

pub use env::{EnvGrant, EnvVar, InvalidEnv};
pub use files::{FilesGrant, InvalidMount, Mount, MountSource};
pub use network::{InvalidHost, NetworkGrant, NetworkOptions};

/// The grants of one plugin; none by default.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Environment variables.
    pub env: EnvGrant,
    /// The mounts of their file system.
    pub files: FilesGrant,
    /// The hosts that they may reach. With `None` a component is refused that imports an interface which needs this
    /// grant; without a host in it, every request is.
    pub network: Option<NetworkGrant>,
}
