//! Grants: a plugin's security policy and contents, converted for the runtime.

use std::{fmt::Display, sync::Arc};

use samovar_crds::{Contents, EnvVar, FileGrant, Reason, SecurityPolicy};
use samovar_runtime::{EnvGrant, FilesGrant, Grants, Mount, MountSource, NetworkGrant};

use crate::load::failure::{Failure, Retry};

/// The grants of a policy, with the contents that it names.
pub(crate) fn grants(policy: &SecurityPolicy, contents: &Contents) -> Result<Grants, Failure> {
    let network = policy.network.as_ref().map(|network| NetworkGrant::new(&network.allowed_hosts));
    let network = network.transpose().map_err(|error| invalid("network.allowedHosts", error))?;
    let mounts: Vec<_> = policy.files.iter().map(|file| mount(file, contents)).collect();
    let files = FilesGrant::new(&mounts).map_err(|error| invalid("files", error))?;
    let variables = policy.env.iter().filter_map(|it| variable(it, contents)).collect();
    let env = EnvGrant::new(variables).map_err(|error| invalid("env", error))?;
    Ok(Grants { env, files, network })
}

fn invalid(field: &str, why: impl Display) -> Failure {
    let why = format!("spec.securityPolicy.{field}: {why}");
    Failure::new(Reason::InvalidSpec, Retry::Never, why)
}

/// A variable and its value; `None` if its key is optional and missing.
fn variable(variable: &EnvVar, contents: &Contents) -> Option<samovar_runtime::EnvVar> {
    let name = variable.name.clone();
    let value = match variable.value_from {
        Some(_) => contents.env.get(&name)?.clone(),
        None => variable.value.clone().unwrap_or_default(),
    };
    Some(samovar_runtime::EnvVar { name, value })
}

fn mount(file: &FileGrant, contents: &Contents) -> Mount {
    let source = if let Some(scratch) = &file.scratch {
        MountSource::Scratch { size_limit: scratch.size_limit.bytes() }
    } else {
        let files = contents.files.get(&file.path).into_iter().flatten();
        let files = files.map(|(name, bytes)| (name.clone(), bytes.0.clone().into())).collect();
        MountSource::ReadOnly(Arc::new(files))
    };
    Mount { path: file.path.clone(), source }
}
