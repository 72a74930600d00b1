//! An artifact: the compiled code of one module, and the digest that names the module.

use std::{fmt, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use crate::{Engine, Reservation};

/// The SHA-256 digest of a module's bytes, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleDigest([u8; 32]);

/// A text that is no digest.
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
        hex(&self.0)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

impl FromStr for ModuleDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let refuse = || DigestError(text.to_owned());
        let hexadecimal = |digits: &&str| digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = text.strip_prefix("sha256:").filter(hexadecimal).ok_or_else(refuse)?;
        let mut digest = [0; 32];
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| refuse())?;
        }
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

/// What a module is, as its first eight bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A core module.
    Core,
    /// A component.
    Component,
}

impl Kind {
    /// What `bytes` begin as: `None` where they are no WebAssembly binary.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.get(..8)? {
            [0, b'a', b's', b'm', 1, 0, 0, 0] => Some(Self::Core),
            [0, b'a', b's', b'm', _, _, 1, 0] => Some(Self::Component),
            _ => None,
        }
    }
}

/// Whether compiled code counts what it executes. Code that does is slower: only plugins that limit fuel have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metering {
    /// It does not.
    Off,
    /// Each instruction takes fuel.
    Fuel,
}

/// How code was compiled, and so what runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    pub(crate) metering: Metering,
    /// Whether it has what several calls at once of one component take: WASI 0.3, async functions, streams. All of a
    /// component's calls are slower then, by a third where they are short: only those that need it have it.
    pub(crate) is_concurrent: bool,
}

impl Build {
    /// That of most modules.
    pub(crate) const PLAIN: Self = Self { metering: Metering::Off, is_concurrent: false };
}

/// The compiled code of one module. Cheap to clone; plugins of the same module share it.
#[derive(Clone)]
pub struct Artifact {
    resident: Arc<Resident>,
    build: Build,
    bytes: u64,
}

/// Code in memory, and its part of the memory budget.
struct Resident {
    code: Code,
    _memory: Reservation,
}

pub(crate) enum Code {
    Core(wasmtime::Module),
    Component(Component),
}

impl Artifact {
    /// Takes in what wasmtime serialized.
    ///
    /// # Safety
    /// As wasmtime's `deserialize`: `serialized` must be, byte for byte, what this program's own compiler
    /// gave. Its only caller is the cache, which checks that.
    #[expect(unsafe_code, reason = "loading machine code cannot be checked; see the contract above")]
    pub(crate) unsafe fn deserialize(
        engine: &Engine,
        kind: Kind,
        build: Build,
        serialized: &[u8],
    ) -> wasmtime::Result<Self> {
        let wasmtime = &engine.variant(build)?.wasmtime;
        let code = match kind {
            // SAFETY: the caller's contract is wasmtime's.
            Kind::Core => Code::Core(unsafe { wasmtime::Module::deserialize(wasmtime, serialized)? }),
            // SAFETY: the caller's contract is wasmtime's.
            Kind::Component => Code::Component(unsafe { Component::deserialize(wasmtime, serialized)? }),
        };
        let bytes = serialized.len() as u64;
        let resident = Arc::new(Resident { code, _memory: engine.memory().account(bytes) });
        Ok(Self { resident, build, bytes })
    }

    /// Whether it is a core module's or a component's.
    pub fn kind(&self) -> Kind {
        match self.resident.code {
            Code::Core(_) => Kind::Core,
            Code::Component(_) => Kind::Component,
        }
    }

    pub(crate) fn build(&self) -> Build {
        self.build
    }

    /// The size of the compiled code and its data, in bytes.
    pub fn code_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn code(&self) -> &Code {
        &self.resident.code
    }

    pub(crate) fn downgrade(&self) -> WeakArtifact {
        WeakArtifact { resident: Arc::downgrade(&self.resident), build: self.build, bytes: self.bytes }
    }
}

/// An artifact that lives only while a plugin uses it.
pub(crate) struct WeakArtifact {
    resident: std::sync::Weak<Resident>,
    build: Build,
    bytes: u64,
}

impl WeakArtifact {
    pub(crate) fn upgrade(&self) -> Option<Artifact> {
        let Self { resident, build, bytes } = self;
        Some(Artifact { resident: resident.upgrade()?, build: *build, bytes: *bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_and_others_are_refused() {
        let digest = ModuleDigest::of(b"module");
        assert_eq!(digest.to_string().parse::<ModuleDigest>().unwrap(), digest);
        for text in [
            "",
            "sha256:",
            "sha512:00",
            "sha256:zz",
            &"sha256:é".repeat(8),
            &format!("sha256:{}", "g".repeat(64)),
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
