//! The grant of environment variables.

use std::{collections::BTreeSet, fmt, sync::Arc};

use wasmtime_wasi::WasiCtxBuilder;

use crate::config;

/// The most bytes of the names and values of one plugin together, since each instance has a copy.
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

/// An environment that no guest can have. The messages name variables, and never their values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEnv {
    /// The name is empty, or has a `=` or a NUL in it.
    #[error(
        "`{0}` is not a valid name of an environment variable: use one that is not empty and has no `=` and no NUL"
    )]
    Name(String),
    /// The name is reserved for the plugin's config.
    #[error(
        "the environment variable `{0}` is reserved for the plugin's config: choose another name, or set `spec.config`"
    )]
    Reserved(String),
    /// Two variables have this name.
    #[error("the environment variable `{0}` is set twice: keep one of them")]
    Duplicate(String),
    /// The value of this variable has a NUL in it.
    #[error(
        "the value of the environment variable `{0}` has a NUL in it: remove the NUL, or mount the value as a file"
    )]
    Value(String),
    /// Names and values exceed the limit together.
    #[error("the environment variables exceed 128Ki together: mount the large ones as files")]
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

    /// The bytes of one copy in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.variables.iter().map(|EnvVar { name, value }| (name.len() + value.len()) as u64).sum()
    }

    /// Sets the variables of an instance.
    pub(crate) fn build(&self, builder: &mut WasiCtxBuilder) {
        for EnvVar { name, value } in &*self.variables {
            builder.env(name, value);
        }
    }
}

/// Omits the value, which may be a secret and must not reach a log.
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
    fn invalid_variables_are_refused() {
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
    fn debug_output_omits_values() {
        let shown = format!("{:?}", grant(&[("TOKEN", "hunter2")]).unwrap());
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
