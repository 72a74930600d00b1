//! The cgroups of the nodes' Pods, one for each node, so that no kubelet sees the Pods of another.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::scratch;

const ROOT: &str = "/sys/fs/cgroup";

/// Creates the bed's cgroup, which is removed when this process ends; returns its path for `cgroupRoot`.
pub(super) fn make(bed: u8) -> Result<String> {
    // A bed of the same number may have ended just now, with its cgroups not removed yet.
    let name = format!("samovar-bed{bed}-{}", std::process::id());
    make_in_all(&name)?;
    // Killed processes stay in their cgroup for a moment.
    let remove = format!(
        "for _ in 1 2 3 4 5 6 7 8 9 10; do\n  \
           left=$(find {ROOT} -maxdepth 2 -name {name})\n  [ -z \"$left\" ] && break\n  \
           find $left -depth -type d -exec rmdir {{}} +\n  sleep 0.2\ndone\n"
    );
    scratch::at_end(&name, &remove)?;
    Ok(format!("/{name}"))
}

/// Creates a node's cgroup below the bed's.
pub(super) fn make_node(bed: &str, node: &str) -> Result<String> {
    let path = format!("{bed}/{node}");
    make_in_all(path.trim_start_matches('/'))?;
    Ok(path)
}

/// Creates it in the one hierarchy of version 2, or in each hierarchy of version 1.
fn make_in_all(path: &str) -> Result<()> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return make_unified(root, path);
    }
    let hierarchies = fs::read_dir(root)?.flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.filter(|path| path.is_dir() && !path.is_symlink()) {
        let folder = hierarchy.join(path);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        inherit_cpuset(&hierarchy, path)?;
    }
    Ok(())
}

/// A new cgroup of version 2 has only the controllers that its parent passes on.
fn make_unified(root: &Path, path: &str) -> Result<()> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let pass_on = controllers.split_whitespace().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    let mut folder = PathBuf::from(root);
    for part in path.split('/') {
        fs::write(folder.join("cgroup.subtree_control"), &pass_on)?;
        folder.push(part);
        fs::create_dir_all(&folder)?;
    }
    Ok(fs::write(folder.join("cgroup.subtree_control"), &pass_on)?)
}

/// A new cgroup of version 1 has no CPUs and no memory nodes until they are set.
fn inherit_cpuset(hierarchy: &Path, path: &str) -> Result<()> {
    if !hierarchy.join("cpuset.cpus").exists() {
        return Ok(());
    }
    let mut folder = PathBuf::from(hierarchy);
    for part in path.split('/') {
        let (parent, own) = (folder.clone(), folder.join(part));
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(own.join(file), fs::read_to_string(parent.join(file))?)?;
        }
        folder = own;
    }
    Ok(())
}
