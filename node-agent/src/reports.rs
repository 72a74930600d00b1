//! Reports: the latest state of each revision on this agent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use samovar_crds::{FunctionStatus, LoadStats, Reason, State};
use tokio::sync::watch;

use crate::desired::Key;

/// The state of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The phase of its load.
    pub state: State,
    /// The reason of the phase.
    pub reason: Reason,
    /// A message for people: the cause, and the remedy if one is needed.
    pub message: String,
    /// Its functions; empty before it is ready.
    pub functions: Vec<FunctionStatus>,
    /// The cost of its load.
    pub load_stats: Option<LoadStats>,
}

impl Report {
    /// A report of a state, with the reason and message that go with it.
    pub(crate) fn of(state: State) -> Self {
        let (reason, message) = match state {
            State::Pulling => (Reason::Pulling, "the module is being pulled"),
            State::Compiling => (Reason::Compiling, "the module is being compiled"),
            State::Warming => (Reason::Warming, "the first instances are being created"),
            State::Ready => (Reason::Serving, "calls are served"),
            State::Failed => (Reason::CompileFailed, "the load failed"),
        };
        Self { state, reason, message: message.to_owned(), functions: Vec::new(), load_stats: None }
    }
}

/// The latest report of each revision. Cheap to clone. A newer report replaces an older one that nobody has read, so
/// that there are never more than running revisions.
#[derive(Clone)]
pub struct Reports {
    reports: Arc<Mutex<BTreeMap<Key, Report>>>,
    changed: watch::Sender<u64>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { reports: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl Reports {
    /// The latest reports.
    pub fn all(&self) -> BTreeMap<Key, Report> {
        self.lock().clone()
    }

    /// The latest report of one revision.
    pub fn report(&self, key: &Key) -> Option<Report> {
        self.lock().get(key).cloned()
    }

    /// A receiver that sees a change whenever a report changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn set(&self, key: &Key, report: Report) {
        if self.lock().insert(key.clone(), report.clone()) != Some(report) {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    pub(crate) fn remove(&self, key: &Key) {
        if self.lock().remove(key).is_some() {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
