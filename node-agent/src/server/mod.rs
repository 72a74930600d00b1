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

use self::{metrics::Metrics, routes::RouteTable};

/// What every connection shares.
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
}
