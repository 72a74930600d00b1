//! Grants: a plugin's policy and what its ConfigMaps and Secrets hold, as the runtime takes them.

use std::{collections::BTreeMap, sync::Arc};

use samovar_crds::{Contents, EnvVar, FileGrant, Reason, SecurityPolicy};
use samovar_runtime::{Grants, MemoryBudget, Mount, MountSource, NetworkGrant, NoMemory};

use crate::loader::{Failure, Retry};

/// What the guests may do. The files are held in memory, which counts as theirs.
pub(crate) fn grants(
    policy: &SecurityPolicy,
    contents: &Contents,
    memory: &MemoryBudget,
) -> Result<Grants, Failure> {
    let network = policy.network.as_ref().map(|network| NetworkGrant::new(&network.allowed_hosts));
    let network = network.transpose().map_err(|error| {
        let why = format!("spec.securityPolicy.network.allowedHosts: {error}");
        Failure::new(Reason::InvalidSpec, Retry::Never, why)
    })?;
    let files: Result<_, NoMemory> = policy.files.iter().map(|file| mount(file, contents, memory)).collect();
    let files = files.map_err(|error| Failure::new(Reason::AgentOverloaded, Retry::Soon(None), error))?;
    Ok(Grants { env: policy.env.iter().filter_map(|it| variable(it, contents)).collect(), files, network })
}

/// A variable that has a value: one whose key is optional, and not there, is not set.
fn variable(variable: &EnvVar, contents: &Contents) -> Option<samovar_runtime::EnvVar> {
    let name = variable.name.clone();
    let value = match variable.value_from {
        Some(_) => contents.env.get(&name)?.clone(),
        None => variable.value.clone().unwrap_or_default(),
    };
    Some(samovar_runtime::EnvVar { name, value })
}

fn mount(file: &FileGrant, contents: &Contents, memory: &MemoryBudget) -> Result<Mount, NoMemory> {
    let source = if let Some(scratch) = &file.scratch {
        MountSource::Scratch { size_limit: scratch.size_limit.bytes() }
    } else {
        let files = contents.files.get(&file.path).into_iter().flatten();
        let held = files.map(|(name, bytes)| Ok((name.clone(), memory.share().hold(bytes.0.clone())?)));
        MountSource::ReadOnly(Arc::new(held.collect::<Result<BTreeMap<_, _>, _>>()?))
    };
    Ok(Mount { path: file.path.clone(), source })
}
