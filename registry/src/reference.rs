//! Image references, with Docker's defaults.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Error;

/// An image reference: `registry/repository`, with a tag, a digest or both.
///
/// Docker's defaults apply: the registry `docker.io`, its repository prefix `library`, the tag `latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference(oci_client::Reference);

impl Reference {
    /// The registry, with its port if the reference has one.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The repository in the registry.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// The tag, explicit or default.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest, if the reference has one.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// Pins the repository to a digest, and drops the tag.
    #[must_use]
    pub fn with_digest(&self, digest: &str) -> Self {
        Self(oci_client::Reference::with_digest(
            self.registry().to_owned(),
            self.repository().to_owned(),
            digest.to_owned(),
        ))
    }

    /// The host that serves the registry: another one for `docker.io`.
    pub(crate) fn host(&self) -> &str {
        self.0.resolve_registry()
    }

    pub(crate) fn inner(&self) -> &oci_client::Reference {
        &self.0
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::InvalidReference { reference: text.to_owned(), why };
        let reference: oci_client::Reference =
            text.parse().map_err(|error: oci_client::ParseError| refuse(error.to_string()))?;
        match reference.digest() {
            Some(digest) if crate::digest::parse(digest).is_none() => {
                Err(refuse("its digest is not `sha256:` and 64 hexadecimal digits".to_owned()))
            }
            _ => Ok(Self(reference)),
        }
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omitted_parts_have_dockers_defaults() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, registry, repository, tag) in [
            ("text", "docker.io", "library/text", Some("latest")),
            ("me/text:1", "docker.io", "me/text", Some("1")),
            ("localhost/text", "localhost", "text", Some("latest")),
            ("r.example.com:5000/a/b/c:1.2", "r.example.com:5000", "a/b/c", Some("1.2")),
            ("127.0.0.1:5000/text", "127.0.0.1:5000", "text", Some("latest")),
            (&format!("r.example.com/text@{digest}"), "r.example.com", "text", None),
        ] {
            let reference: Reference = text.parse().unwrap();
            let parts = (reference.registry(), reference.repository(), reference.tag());
            assert_eq!(parts, (registry, repository, tag), "{text}");
        }
    }

    #[test]
    fn a_malformed_reference_is_refused_with_the_expected_form() {
        for text in
            ["", "Upper/Case", "a b", "text:", "text@sha256:12", "text@md5:aa", "http://r/text", "a:b:c"]
        {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains("registry.example.com/name:tag"), "{text}: {error}");
        }
    }

    #[test]
    fn a_pinned_reference_keeps_its_repository() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let pinned = "r.example.com/text:1".parse::<Reference>().unwrap().with_digest(&digest);
        assert_eq!(pinned.to_string(), format!("r.example.com/text@{digest}"));
    }
}
