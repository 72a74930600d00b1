//! The state that all instances of one plugin share.

use std::sync::Arc;

use crate::{Grants, config::Config, grants::network::OutboundAccess, output::log::GuestLog};

/// The state that all instances of one plugin share, created once.
pub(crate) struct PluginContext {
    /// The most memory of one instance, in bytes.
    pub(crate) memory_limit: u64,
    /// The fuel of an instance's start functions; `None` if the code counts none.
    pub(crate) fuel: Option<u64>,
    pub(crate) log: GuestLog,
    pub(crate) config: Config,
    pub(crate) grants: Grants,
    /// The outbound access that `grants.network` allows.
    pub(crate) outbound: Arc<OutboundAccess>,
}
