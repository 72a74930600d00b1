//! The settings of a node's containerd, CNI, kubelet and kube-proxy.

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Place, network, write};
use crate::process::bed_file;

/// The repository of the pause image, each Pod's first process, in the bed's registry.
pub(super) const PAUSE: &str = "bed/pause";

/// Writes all of them into the node's folder.
pub(super) fn write_all(folder: &Path, at: u8, place: &Place, cgroup: &str, registry: &str) -> Result<()> {
    let json = |name: &str, value: Value| write(&folder.join(name), serde_json::to_vec_pretty(&value)?);
    json("cni/10-bed.conflist", cni(at))?;
    json("kubelet.json", kubelet(folder, at, place, cgroup))?;
    json("kube-proxy.json", kube_proxy(place))?;
    // No resolver except the cluster's own.
    write(&folder.join("resolv.conf"), "")?;
    let of_registry = folder.join("registries").join(registry);
    fs::create_dir_all(&of_registry)?;
    let plain_http = format!("[host.\"http://{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    write(&of_registry.join("hosts.toml"), plain_http)?;
    write(&folder.join("containerd.toml"), containerd(folder, registry)?)
}

fn cni(at: u8) -> Value {
    let ipam = json!({
        "type": "host-local", "dataDir": "/run/cni-ipam",
        "ranges": [[{ "subnet": network::pods_of(at) }]], "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let bridge =
        json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam });
    json!({ "cniVersion": "1.0.0", "name": "bed", "plugins": [bridge] })
}

fn kubelet(folder: &Path, at: u8, place: &Place, cgroup: &str) -> Value {
    let name = format!("node{at}");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network::node_address(at),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": place.file("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": place.file(&format!("{name}.crt")),
        "tlsPrivateKeyFile": place.file(&format!("{name}.key")),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupRoot": cgroup,
        // Accepts version 1 of cgroups, which kubelets otherwise refuse.
        "failCgroupV1": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [network::DNS],
        "resolvConf": folder.join("resolv.conf"),
        "failSwapOn": false,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        // All nodes of a bed see the memory and the disk of one machine, and its Pods are small.
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": false,
        // A dead node is NotReady after seconds; see also the flags of the controller manager.
        "nodeLeaseDurationSeconds": 8,
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        // Without CAP_SYS_RESOURCE it cannot be lowered.
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
    })
}

fn kube_proxy(place: &Place) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": place.file("kube-proxy.kubeconfig") },
        "mode": "nftables",
        "clusterCIDR": network::PODS,
        // The conntrack table is the machine's.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "oomScoreAdj": 0,
        "nftables": { "minSyncPeriod": "100ms", "syncPeriod": "30s" },
    })
}

fn containerd(folder: &Path, registry: &str) -> Result<String> {
    let (folder, programs) = (folder.display(), bed_file("")?);
    let programs = programs.display();
    Ok(format!(
        r#"version = 4
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{registry}/{PAUSE}:1"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "{folder}/registries"

[plugins."io.containerd.cri.v1.runtime"]
netns_mounts_under_state_dir = true
# Without CAP_SYS_RESOURCE it cannot be lowered.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{programs}"]
conf_dir = "{folder}/cni"
"#
    ))
}
