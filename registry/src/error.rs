//! Errors of registry requests, each with what to do about it.

use std::time::Duration;

use crate::Reference;

/// Error of a request to a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A malformed image reference.
    #[error("`{reference}` is not an image reference: {why}; write it as registry.example.com/name:tag")]
    InvalidReference {
        /// The text.
        reference: String,
        /// The parse error.
        why: String,
    },
    /// No such image, tag or blob (404).
    #[error("{reference} is not in the registry; push it, or correct the image's name or tag")]
    NotFound {
        /// The requested image.
        reference: String,
    },
    /// The registry requires credentials, or rejects those of the request (401, 403).
    #[error("the registry denies access to {reference}: {why}; check the credentials for {registry}")]
    Unauthorized {
        /// The requested image.
        reference: String,
        /// The registry.
        registry: String,
        /// The status, or the failure of the token request.
        why: String,
    },
    /// The registry is unreachable, overloaded (429) or failing (5xx). A retry may succeed.
    #[error("the registry {registry} is unavailable: {why}; a retry may succeed")]
    Unavailable {
        /// The registry.
        registry: String,
        /// The status or the network error.
        why: String,
        /// The `Retry-After` of the response.
        retry_after: Option<Duration>,
    },
    /// The received bytes do not have the requested digest.
    #[error(
        "digest mismatch: the registry returned other bytes for {what}; push the image again, or ask the registry's owner"
    )]
    DigestMismatch {
        /// The requested digest.
        what: String,
    },
    /// The image holds no module, or has an unsupported form.
    #[error("{reference} cannot be used: {why}")]
    Unsupported {
        /// The requested image.
        reference: String,
        /// The cause, and what to do.
        why: String,
    },
    /// The Docker config.json is unreadable or invalid.
    #[error("the registry credentials cannot be read: {0}; check the Docker config.json")]
    Credentials(String),
    /// The HTTP client could not be built.
    #[error("the registry client cannot be set up: {0}")]
    Setup(String),
}

impl Error {
    /// True if a retry may succeed with nothing changed.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn unsupported(reference: &Reference, why: impl Into<String>) -> Self {
        Self::Unsupported { reference: reference.to_string(), why: why.into() }
    }
}
