//! Environment variables.

use std::{collections::BTreeSet, fmt, sync::Arc};

use wasmtime_wasi::WasiCtxBuilder;

use crate::config;

/// The most that the names and values of one plugin may have together, in bytes: each call has a copy.
const ENV_BYTES: usize = 128 << 10;

/// The environment variables of a plugin's guests; none by default.
#[derive(Clone, Debug, Default)]
pub struct EnvGrant {
    variables: Arc<[EnvVar]>,
}

/// An environment variable of a guest.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value. It may be a secret.
    pub value: String,
}

/// What no guest can have as its environment. It says names, and never a value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEnv {
    /// It is no name of a variable.
    #[error(
        "`{0}` is no name of an environment variable: give one that is not empty and has no `=` and no NUL in it"
    )]
    Name(String),
    /// The name has another meaning.
    #[error(
        "the environment variable `{0}` holds the plugin's config: choose another name, or set `spec.config`"
    )]
    Reserved(String),
    /// The name is there already.
    #[error("the environment variable `{0}` is given twice: keep one of them")]
    Duplicate(String),
    /// The value has a NUL in it.
    #[error(
        "the value of the environment variable `{0}` has a NUL in it: take that out, or mount it as a file"
    )]
    Value(String),
    /// There is too much.
    #[error("the environment variables have more than 128Ki together: mount the large ones as files")]
    TooLarge,
}

impl EnvGrant {
    /// A grant of these variables.
    pub fn new(variables: Vec<EnvVar>) -> Result<Self, InvalidEnv> {
        let mut names = BTreeSet::new();
        let mut bytes = 0;
        for EnvVar { name, value } in &variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(InvalidEnv::Name(name.clone()));
            }
            if name == config::VARIABLE {
                return Err(InvalidEnv::Reserved(name.clone()));
            }
            if !names.insert(name) {
                return Err(InvalidEnv::Duplicate(name.clone()));
            }
            if value.contains('\0') {
                return Err(InvalidEnv::Value(name.clone()));
            }
            bytes += name.len() + value.len();
        }
        if bytes > ENV_BYTES {
            return Err(InvalidEnv::TooLarge);
        }
        Ok(Self { variables: variables.into() })
    }

    /// What a copy of them takes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.variables.iter().map(|EnvVar { name, value }| (name.len() + value.len()) as u64).sum()
    }

    /// Gives a guest its variables.
    pub(crate) fn build(&self, builder: &mut WasiCtxBuilder) {
        for EnvVar { name, value } in &*self.variables {
            builder.env(name, value);
        }
    }
}

/// Without the value, which is nobody's to log.
impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvVar").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(variables: &[(&str, &str)]) -> Result<EnvGrant, InvalidEnv> {
        let variable =
            |&(name, value): &(&str, &str)| EnvVar { name: name.to_owned(), value: value.to_owned() };
        EnvGrant::new(variables.iter().map(variable).collect())
    }

    #[test]
    fn what_no_guest_can_read_back_is_refused() {
        let large = "x".repeat(ENV_BYTES);
        for (variables, refusal) in [
            (&[("", "x")][..], InvalidEnv::Name(String::new())),
            (&[("A=B", "x")], InvalidEnv::Name("A=B".to_owned())),
            (&[("A\0", "x")], InvalidEnv::Name("A\0".to_owned())),
            (&[("A", "x\0")], InvalidEnv::Value("A".to_owned())),
            (&[("A", "x"), ("A", "y")], InvalidEnv::Duplicate("A".to_owned())),
            (&[("SAMOVAR_CONFIG", "{}")], InvalidEnv::Reserved("SAMOVAR_CONFIG".to_owned())),
            (&[("A", &large)], InvalidEnv::TooLarge),
        ] {
            assert_eq!(grant(variables).err(), Some(refusal));
        }
        assert!(grant(&[("A", &large[1..])]).is_ok());
        assert!(grant(&[("a b", "="), ("ä", "")]).is_ok());
    }

    #[test]
    fn no_value_is_printed() {
        let shown = format!("{:?}", grant(&[("TOKEN", "hunter2")]).unwrap());
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
