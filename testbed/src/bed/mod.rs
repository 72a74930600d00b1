//! A whole Kubernetes on this machine: servers, DNS, a registry, and nodes that are each a set of namespaces with
//! a containerd, a kubelet and a kube-proxy of their own.
//!
//! All of it lives in network namespaces, so that the addresses inside are the same in every bed, and several beds
//! run side by side. One veth pair leads out, to the machine itself and no further.

mod cgroup;
mod network;
mod node;
mod requirements;
mod restore;
mod servers;
mod settings;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client, runtime::wait::await_condition};
use tokio::time::timeout;

use self::{network::Network, servers::Servers};
pub use self::{node::Node, servers::Server};
use crate::{Image, Process, Registry, control_plane, pki::Pki, process::bed_file, scratch};

/// The deadline of each part of a start; the whole takes 6 s on two idle cores.
const START: Duration = Duration::from_mins(1);

/// A running cluster; it stops when it is dropped.
pub struct TestBed {
    // Dropped in this order, so that no server reacts to the end of the nodes.
    servers: Servers,
    nodes: Vec<Node>,
    /// The number of nodes that it started with.
    started: u8,
    /// The nodes that were ever booted: each has a number of its own.
    booted: u8,
    registry: Registry,
    pki: Pki,
    place: Place,
}

/// The folder, network and cgroup of a bed, which all its parts need.
struct Place {
    folder: PathBuf,
    network: Network,
    /// The cgroup of each node is below this one.
    cgroup: String,
}

impl Place {
    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The API server's URL for nodes, Pods and this machine alike.
    fn api(&self) -> String {
        format!("https://{}:{}", self.network.address(), servers::API_PORT)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }
}

impl TestBed {
    /// Starts a cluster with this number of nodes, from `node1` on, and waits until all are Ready.
    pub async fn start(nodes: u8) -> Result<Self> {
        requirements::check()?;
        let folder = scratch::folder("bed")?;
        let network = Network::new().await?;
        requirements::raise_inotify(&network.interface())?;
        let cgroup = cgroup::make(network.number())?;
        let place = Place { folder, network, cgroup };

        let pki = Pki::new(&place.folder)?;
        servers::certificates(&place, &pki)?;
        let servers = Servers::first(&place)?;
        let address = place.network.address();
        let registry = Registry::start_at(&address, |command| place.network.inside(command)).await?;
        let mut bed = Self { servers, nodes: Vec::new(), started: nodes, booted: 0, registry, pki, place };
        for _ in 0..nodes {
            bed.boot().await?;
        }
        let pause = Image { program: bed_file("pause")?, libraries: false, files: Vec::new(), user: "65535" };
        pause.push(&bed.registry, settings::PAUSE, "1").await?;
        bed.servers.ready(&bed.place.kubeconfig()).await?;
        bed.servers.rest(&bed.place)?;
        for node in &mut bed.nodes {
            node.start_kubelet(&bed.place).await?;
        }
        let client = bed.client().await?;
        servers::announce_dns(&client).await?;
        for node in &bed.nodes {
            node.ready(&client, true, START).await?;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        let account = |account: Option<&ServiceAccount>| account.is_some();
        timeout(START, await_condition(accounts, "default", account)).await??;
        Ok(bed)
    }

    /// The kubeconfig of a cluster administrator, for this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.place.kubeconfig()
    }

    /// A cluster administrator's client.
    pub async fn client(&self) -> Result<Client> {
        control_plane::client(&self.kubeconfig()).await
    }

    /// The registry, which has one name for nodes, Pods and this machine.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// The registry's `host:port`.
    pub fn registry_address(&self) -> &str {
        self.registry.address()
    }

    /// The audit log of Samovar's requests so far, one event a line.
    pub fn audit_log(&self) -> Result<String> {
        let path = self.place.folder.join(servers::AUDIT_LOG);
        std::fs::read_to_string(path).context("the API server writes no audit log")
    }

    /// The process of a server, to stop, pause or start again.
    pub fn server(&mut self, server: Server) -> &mut Process {
        self.servers.process(server)
    }

    /// The node of this name.
    pub fn node(&mut self, name: &str) -> Result<&mut Node> {
        let node = self.nodes.iter_mut().find(|node| node.name() == name);
        node.with_context(|| format!("the bed has no {name}"))
    }

    /// Adds a node and waits until it is Ready; returns its name.
    pub async fn add_node(&mut self) -> Result<String> {
        self.boot().await?;
        let client = self.client().await?;
        let node = self.nodes.last_mut().context("a node was added")?;
        node.start_kubelet(&self.place).await?;
        node.ready(&client, true, START).await?;
        Ok(node.name().to_owned())
    }

    /// Powers a node off, without a shutdown.
    pub async fn power_off(&mut self, name: &str) -> Result<()> {
        self.node(name)?.power_off().await
    }

    /// Powers a node on again, and does not wait for it.
    pub async fn power_on(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name() == name);
        let node = node.with_context(|| format!("the bed has no {name}"))?;
        node.power_on(&self.place).await?;
        node.start_kubelet(&self.place).await
    }

    /// Starts the kubelet of a node again.
    pub async fn restart_kubelet(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name() == name);
        node.with_context(|| format!("the bed has no {name}"))?.start_kubelet(&self.place).await
    }

    /// Forgets a node that was powered off and deleted.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.retain(|node| node.name() != name);
    }

    /// Disconnects a node's network, or connects it again.
    pub fn set_connected(&mut self, name: &str, connected: bool) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name() == name);
        node.with_context(|| format!("the bed has no {name}"))?.set_connected(&self.place, connected)
    }

    async fn boot(&mut self) -> Result<()> {
        self.booted += 1;
        ensure!(self.booted <= 100, "a bed has at most 100 nodes");
        let node = Node::boot(self.booted, &self.place, &self.pki, self.registry.address()).await?;
        self.nodes.push(node);
        Ok(())
    }
}

/// Writes `content` into a file of the bed.
fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("{} cannot be written", path.display()))
}
