//! The identity of compiled code: the digest and kind of its module, and the engine variant it was compiled for.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// The SHA-256 digest of a module's bytes, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleDigest([u8; 32]);

/// A malformed digest.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a digest: it must be `sha256:` and 64 hexadecimal digits")]
pub struct DigestError(String);

impl ModuleDigest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for ModuleDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let refuse = || DigestError(text.to_owned());
        let digits = text.strip_prefix("sha256:").ok_or_else(refuse)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(digits, &mut digest).map_err(|_| refuse())?;
        Ok(Self(digest))
    }
}

impl fmt::Display for ModuleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for ModuleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The kind of a module, from its first eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A core module.
    Core,
    /// A component.
    Component,
}

impl Kind {
    /// The kind that the preamble of `bytes` declares; `None` if they are no WebAssembly binary.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.get(..8)? {
            [0, b'a', b's', b'm', 1, 0, 0, 0] => Some(Self::Core),
            [0, b'a', b's', b'm', _, _, 1, 0] => Some(Self::Component),
            _ => None,
        }
    }
}

/// Selects whether compiled code counts fuel. Code that does is slower, so only plugins that limit fuel have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metering {
    /// Counts nothing.
    Off,
    /// Each instruction takes fuel.
    Fuel,
}

/// The settings that code was compiled with, and so the engine variant that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    pub(crate) metering: Metering,
    /// Supports concurrent calls into one component: WASI 0.3, async functions, streams. It slows every call of a
    /// component, short ones by a third, so only components that need it have it.
    pub(crate) is_concurrent: bool,
}

impl Build {
    /// The build of most modules.
    pub(crate) const PLAIN: Self = Self { metering: Metering::Off, is_concurrent: false };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_and_others_are_refused() {
        let digest = ModuleDigest::of(b"module");
        assert_eq!(digest.to_string().parse::<ModuleDigest>().unwrap(), digest);
        let upper_case = format!("sha256:{}", digest.hex().to_uppercase());
        assert_eq!(upper_case.parse::<ModuleDigest>().unwrap(), digest);
        let hex = "120970d812836f19888625587a4606a5ad23cef31c8684e601771552548fc6b9";
        assert_eq!(digest.hex(), hex);
        for text in [
            "",
            "sha256:",
            "sha512:00",
            "sha256:zz",
            &"sha256:é".repeat(8),
            &format!("sha256:{}", "g".repeat(64)),
            &format!("sha256:+{}", "0".repeat(63)),
            &digest.to_string()[..70],
            &format!("{digest}0"),
            &format!("{digest}00"),
        ] {
            assert!(text.parse::<ModuleDigest>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_bytes_say_what_a_module_is() {
        assert_eq!(Kind::of(b"\0asm\x01\0\0\0"), Some(Kind::Core));
        assert_eq!(Kind::of(b"\0asm\x0d\0\x01\0"), Some(Kind::Component));
        assert_eq!(Kind::of(b"\0asm"), None);
        assert_eq!(Kind::of(b"not wasm"), None);
    }
}
