//! Checks that the machine has what a bed needs; the error says what to install or to load.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::scratch;

/// The programs that the bed runs and that are not built with it, and the package of Debian and Ubuntu of each.
/// `needs.sh` checks them before anything is built; this check is for a bed that make did not start.
const NEEDS: &str = include_str!("../../needs.txt");

/// Kubelets, containerds and kube-proxies watch files; the default of 128 for each user is too few for three nodes.
const INOTIFY_INSTANCES: u32 = 1024;
const INOTIFY: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Restores the limit when the last bed of the machine ends. Each bed has an interface, which is removed after its
/// processes: at once, or when the machine's first process has reaped them.
const RESTORE_INOTIFY: &str = "
{
  for _ in $(seq 600); do [ -e /sys/class/net/OWN ] || break; sleep 0.5; done
  set -- /sys/class/net/samovar[0-9]*
  [ -e \"$1\" ] || [ ! -e /run/samovar-inotify ] ||
    { cat /run/samovar-inotify >/proc/sys/fs/inotify/max_user_instances && rm /run/samovar-inotify; }
} &
";

/// Fails with an error that names what is missing.
pub(super) fn check() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the test bed makes network namespaces and cgroups, so it needs root: use sudo, or a cluster of yours \
         with SAMOVAR_TEST_CLUSTER=existing"
    );
    let missing: Vec<_> = programs().filter(|(program, _)| !is_there(program)).collect();
    let programs = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    let packages = missing.iter().map(|(_, package)| *package).collect::<Vec<_>>().join(" ");
    ensure!(missing.is_empty(), "the test bed needs {programs}: apt-get install {packages}");
    let overlay = fs::read_to_string("/proc/filesystems")?.lines().any(|line| line.ends_with("\toverlay"));
    ensure!(overlay || modprobe("overlay"), "the test bed needs overlayfs: modprobe overlay");
    let bridges = Path::new("/proc/sys/net/bridge").exists() || modprobe("br_netfilter");
    ensure!(bridges, "the test bed needs netfilter on bridges: modprobe br_netfilter");
    Ok(())
}

/// Each program of the group `nodes` with its package.
fn programs() -> impl Iterator<Item = (&'static str, &'static str)> {
    NEEDS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace();
        let pair = (words.next()?, words.next()?);
        words.any(|group| group == "nodes").then_some(pair)
    })
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Not on every user's PATH.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

fn modprobe(module: &str) -> bool {
    Command::new("modprobe").arg(module).status().is_ok_and(|status| status.success())
}

/// Raises the limit of inotify instances until the last bed ends. `interface` is this bed's.
pub(super) fn raise_inotify(interface: &str) -> Result<()> {
    let limit = fs::read_to_string(INOTIFY)?;
    if limit.trim().parse::<u32>()? < INOTIFY_INSTANCES {
        fs::write("/run/samovar-inotify", limit)?;
        fs::write(INOTIFY, INOTIFY_INSTANCES.to_string()).with_context(|| format!("{INOTIFY} is too low"))?;
    }
    scratch::at_end(&format!("inotify-{interface}"), &RESTORE_INOTIFY.replace("OWN", interface))?;
    Ok(())
}
