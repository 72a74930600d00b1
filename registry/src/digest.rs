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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_sha256_digests_are_parsed() {
        let digest = of(b"module");
        assert_eq!(parse(&digest), digest.strip_prefix("sha256:"));
        for malformed in ["sha512:00", "sha256:00", &digest.to_uppercase()] {
            assert_eq!(parse(malformed), None, "{malformed}");
        }
    }
}
