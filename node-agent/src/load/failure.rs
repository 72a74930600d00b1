//! Failures of a load: the reason that the status shows, and whether a retry may help.

use std::{fmt::Display, time::Duration};

use samovar_crds::Reason;

/// Why a revision cannot be served, and whether trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) retry: Retry,
}

/// Whether trying again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Only a change can.
    Never,
    /// It may, soon; not sooner than the registry asked, where it did.
    Soon(Option<Duration>),
    /// It may, at any moment.
    Often,
    /// It may, one day.
    Slowly,
}

impl Failure {
    pub(crate) fn new(reason: Reason, retry: Retry, message: impl Display) -> Self {
        Self { reason, retry, message: message.to_string() }
    }
}
