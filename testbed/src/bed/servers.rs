//! The servers of a bed: etcd, the API server, the controller manager, the scheduler and the cluster's DNS.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::EndpointSlice,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use super::{Place, network, write};
use crate::{Process, control_plane, pki::Pki, process::bed_program};

/// The port of the API server, in the network of the bed.
pub(super) const API_PORT: u16 = 6443;
/// The file of the API server's audit log.
pub(super) const AUDIT_LOG: &str = "audit.log";

/// A server that can be stopped and paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The store of the API server.
    Etcd,
    /// The kube-apiserver.
    Api,
    /// The kube-controller-manager.
    ControllerManager,
    /// The kube-scheduler.
    Scheduler,
    /// The cluster's DNS.
    Dns,
}

/// The processes. `rest` needs the first two.
pub(super) struct Servers {
    etcd: Process,
    api: Process,
    rest: Vec<Process>,
}

/// Writes the certificates and kubeconfigs of the API server and its clients.
pub(super) fn certificates(place: &Place, pki: &Pki) -> Result<()> {
    let address = place.network.address();
    let api = [address.as_str(), network::API_SERVICE, "127.0.0.1", "kubernetes.default.svc"];
    pki.certificate("kube-apiserver", "kube-apiserver", None, &api)?;
    pki.certificate("kubelet-client", "kube-apiserver", Some("system:masters"), &[])?;
    for (name, user, group) in [
        ("admin", "admin", Some("system:masters")),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("kube-proxy", "system:kube-proxy", None),
        ("dns", "system:coredns", None),
    ] {
        pki.certificate(name, user, group, &[])?;
        pki.kubeconfig(name, &place.api())?;
    }
    Ok(())
}

impl Servers {
    /// Starts etcd and the API server.
    pub(super) fn first(place: &Place) -> Result<Self> {
        let start = |name: &str, command: Command| Process::quietly(name, place.network.inside(&command));
        let mut etcd = bed_program("etcd")?;
        // The data need not survive a crash of the machine.
        etcd.args(["--name=bed", "--unsafe-no-fsync", "--log-level=warn"])
            .arg(format!("--data-dir={}", place.file("etcd")));
        let etcd = start("etcd", etcd)?;
        let api = start("kube-apiserver", api_server(place)?)?;
        Ok(Self { etcd, api, rest: Vec::new() })
    }

    /// Waits until the API server is ready.
    pub(super) async fn ready(&mut self, kubeconfig: &Path) -> Result<()> {
        control_plane::ready(kubeconfig, [&mut self.etcd, &mut self.api]).await
    }

    /// Starts the servers that need the API server.
    pub(super) fn rest(&mut self, place: &Place) -> Result<()> {
        let start = |name: &str, command: Command| Process::quietly(name, place.network.inside(&command));
        self.rest = vec![
            start("kube-controller-manager", controller_manager(place)?)?,
            start("kube-scheduler", scheduler(place)?)?,
            start("coredns", dns(place)?)?,
        ];
        Ok(())
    }

    /// True if all of them run.
    pub(super) fn run(&self) -> bool {
        !self.etcd.is_stopped() && !self.api.is_stopped() && !self.rest.iter().any(Process::is_stopped)
    }

    /// Resumes or starts those that do not run.
    pub(super) fn restore(&mut self) -> Result<()> {
        let first = [&mut self.etcd, &mut self.api];
        first.into_iter().chain(&mut self.rest).try_for_each(Process::restore)
    }

    pub(super) fn process(&mut self, server: Server) -> &mut Process {
        match server {
            Server::Etcd => &mut self.etcd,
            Server::Api => &mut self.api,
            Server::ControllerManager => &mut self.rest[0],
            Server::Scheduler => &mut self.rest[1],
            Server::Dns => &mut self.rest[2],
        }
    }
}

fn api_server(place: &Place) -> Result<Command> {
    // Logs the requests of Samovar's ServiceAccounts: a test compares them with their rights.
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "Metadata", "userGroups": ["system:serviceaccounts:samovar-system"] },
            { "level": "None" },
        ],
    });
    fs::write(place.folder.join("audit-policy.json"), serde_json::to_vec(&policy)?)?;
    let mut command = bed_program("kube-apiserver")?;
    command
        .args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0"])
        .arg(format!("--advertise-address={}", place.network.address()))
        .arg(format!("--secure-port={API_PORT}"))
        .arg(format!("--service-cluster-ip-range={}", network::SERVICES))
        .arg(format!("--tls-cert-file={}", place.file("kube-apiserver.crt")))
        .arg(format!("--tls-private-key-file={}", place.file("kube-apiserver.key")))
        .arg(format!("--client-ca-file={}", place.file("ca.crt")))
        .arg(format!("--kubelet-certificate-authority={}", place.file("ca.crt")))
        .arg(format!("--kubelet-client-certificate={}", place.file("kubelet-client.crt")))
        .arg(format!("--kubelet-client-key={}", place.file("kubelet-client.key")))
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(format!("--service-account-signing-key-file={}", place.file("service-account.key")))
        .arg(format!("--service-account-key-file={}", place.file("service-account.pub")))
        .arg(format!("--audit-policy-file={}", place.file("audit-policy.json")))
        .arg(format!("--audit-log-path={}", place.file(AUDIT_LOG)))
        .arg("--authorization-mode=Node,RBAC")
        // Requires rights on the owner of whoever sets blockOwnerDeletion, as OpenShift and others do.
        .arg("--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement")
        // Pods are evicted from a dead node after 5 s.
        .args(["--default-not-ready-toleration-seconds=5", "--default-unreachable-toleration-seconds=5"])
        .args(["--profiling=false", "--v=1"]);
    Ok(command)
}

fn controller_manager(place: &Place) -> Result<Command> {
    let mut command = bed_program("kube-controller-manager")?;
    command
        .arg(format!("--kubeconfig={}", place.file("controller-manager.kubeconfig")))
        .arg(format!("--service-account-private-key-file={}", place.file("service-account.key")))
        .arg(format!("--root-ca-file={}", place.file("ca.crt")))
        .args(["--use-service-account-credentials=true", "--leader-elect=false", "--secure-port=0"])
        .args(["--kube-api-qps=500", "--kube-api-burst=1000", "--profiling=false", "--v=1"])
        .args(["--node-monitor-period=1s", "--node-monitor-grace-period=10s", "--node-eviction-rate=10"])
        .arg("--node-startup-grace-period=20s");
    Ok(command)
}

fn scheduler(place: &Place) -> Result<Command> {
    let mut command = bed_program("kube-scheduler")?;
    command
        .arg(format!("--kubeconfig={}", place.file("scheduler.kubeconfig")))
        .args(["--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000"])
        .args(["--profiling=false", "--v=1"]);
    Ok(command)
}

fn dns(place: &Place) -> Result<Command> {
    let corefile = format!(
        "cluster.local:53 in-addr.arpa:53 {{\n  bind {bridge}\n  errors\n  \
           kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig}\n    ttl 5\n  }}\n}}\n\
         .:53 {{\n  bind {bridge}\n  template ANY ANY {{\n    rcode NXDOMAIN\n  }}\n}}\n",
        bridge = network::BRIDGE,
        kubeconfig = place.file("dns.kubeconfig"),
    );
    let path = place.folder.join("Corefile");
    write(&path, corefile)?;
    let mut command = bed_program("coredns")?;
    command.arg("-conf").arg(path);
    Ok(command)
}

/// Creates the Service of the cluster's DNS, which runs outside the cluster, and its RBAC rights.
pub(super) async fn announce_dns(client: &Client) -> Result<()> {
    let role = json!({ "metadata": { "name": "bed:dns" }, "rules": [
        { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"] },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
    ]});
    let binding = json!({
        "metadata": { "name": "bed:dns" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bed:dns" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns" }],
    });
    let service = json!({ "metadata": { "name": "kube-dns" }, "spec": { "clusterIP": network::DNS, "ports": [
        { "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
    ]}});
    let slice = json!({
        "metadata": { "name": "kube-dns", "labels": { "kubernetes.io/service-name": "kube-dns" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [network::BRIDGE], "conditions": { "ready": true } }],
        "ports": [
            { "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
        ],
    });
    let create = PostParams::default();
    let system = "kube-system";
    Api::<ClusterRole>::all(client.clone()).create(&create, &serde_json::from_value(role)?).await?;
    Api::<ClusterRoleBinding>::all(client.clone()).create(&create, &serde_json::from_value(binding)?).await?;
    Api::<Service>::namespaced(client.clone(), system)
        .create(&create, &serde_json::from_value(service)?)
        .await?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), system);
    slices.create(&create, &serde_json::from_value(slice)?).await?;
    Ok(())
}
