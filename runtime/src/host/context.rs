//! What every instance of one plugin is given: the same for all of them, and made once.

use std::sync::Arc;

use crate::{Grants, config::Config, grants::network::OutboundAccess, output::log::GuestLog};

/// What every instance of one plugin is given.
pub(crate) struct PluginContext {
    /// The most memory of one instance, in bytes.
    pub(crate) memory_limit: u64,
    /// The fuel of an instance's start functions, where their code counts it.
    pub(crate) fuel: Option<u64>,
    pub(crate) log: GuestLog,
    pub(crate) config: Config,
    pub(crate) grants: Grants,
    /// How its guests reach what `grants.network` allows.
    pub(crate) outbound: Arc<OutboundAccess>,
}
