//! Resolves a tag or a digest to the digest of the manifest that holds the module.

use crate::{
    Client, Error, Reference, digest,
    manifest::{ACCEPT, Manifest},
};

impl Client {
    /// Pins a reference to the digest of the manifest that holds the module, through an index where there is one.
    /// Asks the registry even for a digest, which may be an index's, or be gone.
    pub async fn resolve(&self, reference: &Reference) -> Result<Reference, Error> {
        let authorization = self.authorize(reference).await?;
        let (bytes, media_type) = self.manifest(reference, &authorization, ACCEPT).await?;
        match Manifest::parse(reference, &bytes, &media_type)? {
            Manifest::Image(_) => Ok(reference.with_digest(&digest::of(&bytes))),
            Manifest::Index(index) => {
                let pinned = reference.with_digest(&index.module(reference)?.digest);
                if digest::parse(pinned.digest().unwrap_or_default()).is_none() {
                    return Err(Error::unsupported(
                        reference,
                        "its index names a manifest without a SHA-256 digest",
                    ));
                }
                let (bytes, media_type) = self.manifest(&pinned, &authorization, ACCEPT).await?;
                match Manifest::parse(&pinned, &bytes, &media_type)? {
                    Manifest::Image(_) => Ok(pinned),
                    Manifest::Index(_) => Err(Error::unsupported(reference, "it is an index of indexes")),
                }
            }
        }
    }
}
