//! The memory limit of this process's cgroups: version 2, and version 1 if that has the memory controller.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From here up a value means no limit: version 1 writes that as the highest number of whole pages.
const NONE_FROM: u64 = 1 << 60;

/// The lowest memory limit, in bytes, of this process's cgroup and its ancestors, as far as they are mounted under
/// `root`, which is `/` except in tests. A container sees its own cgroup as the topmost, with its limit in it.
pub(crate) fn memory_limit(root: &Path) -> Option<u64> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    mounts
        .lines()
        .filter_map(Mount::parse)
        .filter_map(|mount| {
            let (top, own) = mount.folders(root, mount.own(&own)?);
            own.ancestors()
                .take_while(|folder| folder.starts_with(&top))
                .filter_map(|folder| limit(&folder.join(mount.file)))
                .min()
        })
        .min()
}

fn limit(file: &Path) -> Option<u64> {
    // Version 2 writes "max" for no limit, which is not a number.
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|&bytes| bytes < NONE_FROM)
}

/// A mounted hierarchy of cgroups that may limit memory.
struct Mount<'a> {
    /// The cgroup at the root of the mount.
    cgroup: &'a str,
    /// The mount point.
    point: &'a str,
    /// The controller that a line of `/proc/self/cgroup` must name; empty for version 2, which names none.
    controller: &'static str,
    /// The file with the limit.
    file: &'static str,
}

impl<'a> Mount<'a> {
    /// Parses a line of `/proc/self/mountinfo`: `36 25 0:31 /cgroup /mount/point rw,relatime shared:1 - cgroup2 cgroup rw`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (cgroup, point) = (mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let (controller, file) = match (filesystem.next()?, filesystem.nth(1)?) {
            ("cgroup2", _) => ("", "memory.max"),
            ("cgroup", options) if options.split(',').any(|option| option == "memory") => {
                ("memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        Some(Self { cgroup, point, controller, file })
    }

    /// This process's cgroup in the hierarchy, from `/proc/self/cgroup`: `4:memory:/path`, `0::/path`.
    fn own(&self, cgroups: &'a str) -> Option<&'a str> {
        cgroups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            controllers.split(',').any(|name| name == self.controller).then_some(path)
        })
    }

    /// The folders of the mounted cgroup and of this process's own. A process that entered its cgroup namespace from
    /// outside sees its own not below the mounted one: then only the mounted one is known, and stands for both.
    fn folders(&self, root: &Path, own: &str) -> (PathBuf, PathBuf) {
        let top = root.join(self.point.trim_start_matches('/'));
        let below = Path::new(own).strip_prefix(self.cgroup).ok();
        let below = below.filter(|path| !path.components().any(|part| part.as_os_str() == ".."));
        let own = below.map_or_else(|| top.clone(), |path| top.join(path));
        (top, own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit for these files of `/proc/self` and of the hierarchies.
    fn limit_with(cgroup: &str, mounts: &[&str], files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounts.join("\n");
        for (path, content) in
            [("proc/self/cgroup", cgroup), ("proc/self/mountinfo", mounts.as_str())].iter().chain(files)
        {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        memory_limit(root.path())
    }

    const V2: &str = "31 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate";
    const PIDS: &str = "30 23 0:25 / /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids";

    #[test]
    fn a_container_of_version_2_sees_its_limit_at_the_top() {
        assert_eq!(
            limit_with("0::/\n", &[V2], &[("sys/fs/cgroup/memory.max", "536870912\n")]),
            Some(512 << 20)
        );
        assert_eq!(limit_with("0::/\n", &[V2], &[("sys/fs/cgroup/memory.max", "max\n")]), None);
    }

    #[test]
    fn the_lowest_limit_of_a_pod_and_its_containers_counts() {
        let pod = "sys/fs/cgroup/kubepods/pod1/memory.max";
        let container = "sys/fs/cgroup/kubepods/pod1/agent/memory.max";
        let node = ("sys/fs/cgroup/kubepods/memory.max", "8000\n");
        for (in_pod, in_container, limit) in
            [("1000", "2000", 1000), ("2000", "1000", 1000), ("max", "9000", 8000)]
        {
            let files = [(pod, in_pod), (container, in_container), node];
            assert_eq!(limit_with("0::/kubepods/pod1/agent\n", &[V2], &files), Some(limit));
        }
    }

    #[test]
    fn version_1_is_found_by_its_memory_controller() {
        let cgroup = "5:cpu,cpuacct:/kubepods/pod1/agent\n4:memory:/kubepods/pod1/agent\n";
        let files = [("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n")];
        let mount = "35 31 0:32 /kubepods/pod1/agent /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        assert_eq!(limit_with(cgroup, &[PIDS, mount], &files), Some(1 << 30));
        let files = [
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/kubepods/pod1/agent/memory.limit_in_bytes", "2147483648\n"),
        ];
        let mount = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        assert_eq!(limit_with(cgroup, &[PIDS, mount, V2], &files), Some(2 << 30));
    }

    #[test]
    fn a_cgroup_outside_the_mount_falls_back_to_the_mounted_one() {
        let files = [("sys/fs/cgroup/memory.max", "4096\n"), ("sys/fs/memory.max", "1\n")];
        assert_eq!(limit_with("0::/../other\n", &[V2], &files), Some(4096));
    }

    #[test]
    fn without_cgroups_there_is_no_limit() {
        assert_eq!(limit_with("", &[], &[]), None);
        assert_eq!(limit_with("0::/\n", &["no mount", V2], &[]), None);
        assert_eq!(limit_with("3:pids:/\n", &[PIDS], &[]), None);
    }
}
