//! What can go wrong with a registry, told so that a person knows what to do.

use std::time::Duration;

use crate::Reference;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no image reference.
    #[error("`{reference}` is not an image reference: {why}; write it as registry.example.com/name:tag")]
    InvalidReference {
        /// The text.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such image, tag or blob.
    #[error("{reference} is not in the registry; push it, or correct the image's name or tag")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// The registry asks for credentials, or refuses those that it was given.
    #[error("the registry refuses to give {reference}: {why}; check the credentials for {registry}")]
    Unauthorized {
        /// What was asked for.
        reference: String,
        /// The registry.
        registry: String,
        /// What it said.
        why: String,
    },
    /// The registry cannot be reached, is overloaded or broken. Asking again may help.
    #[error("the registry {registry} does not answer: {why}; it is asked again")]
    Unavailable {
        /// The registry.
        registry: String,
        /// What happened.
        why: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// What the registry gave is not what its digest says.
    #[error(
        "the registry gave other bytes for {what} than its digest says; push the image again, or ask the registry's owner"
    )]
    DigestMismatch {
        /// The digest that was asked for.
        what: String,
    },
    /// It is no module, or not in a form that is known.
    #[error("{reference} cannot be used: {why}")]
    Unsupported {
        /// What was asked for.
        reference: String,
        /// Why, and what to do.
        why: String,
    },
    /// The credentials' file cannot be used.
    #[error("the registry credentials cannot be read: {0}; check the Docker config.json")]
    Credentials(String),
    /// The HTTP client cannot be set up.
    #[error("the registry client cannot be set up: {0}")]
    Setup(String),
}

impl Error {
    /// Whether asking again, with nothing changed, may help.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn unsupported(reference: &Reference, why: impl Into<String>) -> Self {
        Self::Unsupported { reference: reference.to_string(), why: why.into() }
    }
}
