//! Environment variables.

use std::fmt;

use wasmtime_wasi::WasiCtxBuilder;

/// An environment variable of a guest.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value. It may be a secret.
    pub value: String,
}

/// Without the value, which is nobody's to log.
impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvVar").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Gives a guest its variables.
pub(crate) fn build(variables: &[EnvVar], builder: &mut WasiCtxBuilder) {
    for EnvVar { name, value } in variables {
        builder.env(name, value);
    }
}
