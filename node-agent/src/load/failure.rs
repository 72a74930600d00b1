//! Failures of a load: the reason that the status shows, and whether a retry may help.

use std::{fmt::Display, time::Duration};

use samovar_crds::Reason;

/// A failed load of a revision.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) retry: Retry,
}

/// The pace of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// A retry cannot help: only a change of the revision can.
    Never,
    /// A retry may help soon; not before the delay that the registry asked for, if it did.
    Soon(Option<Duration>),
    /// A retry may help at any moment.
    Often,
    /// A retry may help one day.
    Slowly,
}

impl Failure {
    pub(crate) fn new(reason: Reason, retry: Retry, message: impl Display) -> Self {
        Self { reason, retry, message: message.to_string() }
    }
}
