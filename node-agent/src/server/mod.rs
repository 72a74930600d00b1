//! The server of calls: what its connections share, and a file for each step from a connection to an answer.

pub(crate) mod connections;
pub(crate) mod gauges;
pub(crate) mod metrics;
pub(crate) mod problem;
pub(crate) mod problem_type;
pub(crate) mod routes;
pub(crate) mod target;

mod batch;
mod body;
mod describe;
mod dispatch;
mod http;
mod invoke;

use std::sync::Arc;

use arc_swap::ArcSwap;
use samovar_runtime::MemoryBudget;
use tokio::sync::watch;

use self::{
    metrics::Metrics,
    problem::Problem,
    routes::{Route, RouteTable, Serving},
};
use crate::desired::Key;

/// The state that all connections share.
pub(crate) struct Server {
    pub(crate) routes: ArcSwap<RouteTable>,
    pub(crate) metrics: Metrics,
    pub(crate) memory: MemoryBudget,
    pub(crate) draining: watch::Sender<bool>,
}

impl Server {
    pub(crate) fn new(metrics: Metrics, memory: MemoryBudget) -> Arc<Self> {
        Arc::new(Self { routes: ArcSwap::default(), metrics, memory, draining: watch::Sender::new(false) })
    }

    /// The revision that serves a plugin now, for a call whose own revision was closed after the look-up.
    fn successor(&self, Key { namespace, plugin, .. }: &Key) -> Result<Arc<Serving>, Problem> {
        match self.routes.load().get(namespace, plugin) {
            Some(Route::Serving(next)) => Ok(Arc::clone(next)),
            Some(Route::NotReady(why)) => Err(Problem::not_ready(why)),
            None => Err(Problem::no_such_plugin(namespace, plugin)),
        }
    }
}
