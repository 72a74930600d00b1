//! The board: what is true of each revision here, for whoever reports it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use samovar_crds::{FunctionStatus, LoadStats, Reason, State};
use tokio::sync::watch;

use crate::desired::Key;

/// What is true of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How far it is.
    pub state: State,
    /// Why it is there.
    pub reason: Reason,
    /// What happened and what to do, for people.
    pub message: String,
    /// The functions found; empty before it is ready.
    pub functions: Vec<FunctionStatus>,
    /// What loading took.
    pub load_stats: Option<LoadStats>,
}

impl Report {
    /// A revision on its way.
    pub(crate) fn of(state: State) -> Self {
        let (reason, message) = match state {
            State::Pulling => (Reason::Pulling, "the module is being pulled"),
            State::Compiling => (Reason::Compiling, "the module is being compiled"),
            State::Warming => (Reason::Warming, "the first instances are being made"),
            State::Ready => (Reason::Serving, "calls are answered"),
            State::Failed => (Reason::CompileFailed, "it failed"),
        };
        Self { state, reason, message: message.to_owned(), functions: Vec::new(), load_stats: None }
    }
}

/// The latest report of each revision. Cheap to clone. A newer report takes the place of an older one that
/// nobody has read, so that it never grows past what runs.
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

    /// One report.
    pub fn report(&self, key: &Key) -> Option<Report> {
        self.lock().get(key).cloned()
    }

    /// Changes whenever a report does.
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
