//! SHA-256 digests, as the OCI image specification writes them.

use sha2::{Digest as _, Sha256};

/// The digest of `bytes`: `sha256:<64 hexadecimal digits>`.
pub(crate) fn of(bytes: &[u8]) -> String {
    write(&Sha256::digest(bytes))
}

/// Formats a computed SHA-256 as a digest.
pub(crate) fn write(sha: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha))
}

/// The hexadecimal digits of a digest; `None` for an unsupported algorithm or a malformed digest.
pub(crate) fn parse(digest: &str) -> Option<&str> {
    let digits = digest.strip_prefix("sha256:")?;
    let hexadecimal = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (digits.len() == 64 && hexadecimal).then_some(digits)
}
