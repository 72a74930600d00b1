//! One node: namespaces with a first process, and in them containerd, kubelet and kube-proxy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client, runtime::wait::await_condition};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, interval, timeout};

use super::{Place, START, cgroup, network, settings};
use crate::{
    Process, eventually,
    pki::Pki,
    process::{LOOK, bed_file, through},
};

/// The script of a node's first process, which then becomes the pause program and only reaps.
const INIT: &str = include_str!("node-init.sh");

/// One node of a bed.
pub struct Node {
    name: String,
    at: u8,
    folder: PathBuf,
    kubelet: Vec<Process>,
    containerd: Option<Process>,
    paused: bool,
    connected: bool,
    /// The PID of the first process on this machine, and the process that started it.
    init: u32,
    starter: Process,
}

impl Node {
    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes a new node's settings, boots it and starts its containerd.
    pub(super) async fn boot(at: u8, place: &Place, pki: &Pki, registry: &str) -> Result<Self> {
        let name = format!("node{at}");
        let address = network::node_address(at);
        pki.certificate(&name, &format!("system:node:{name}"), Some("system:nodes"), &[&name, &address])?;
        pki.kubeconfig(&name, &place.api())?;
        let folder = place.folder.join(&name);
        for part in ["containerd", "kubelet", "cni", "registries"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let cgroup = cgroup::make_node(&place.cgroup, &name)?;
        settings::write_all(&folder, at, place, &cgroup, registry)?;
        let (init, starter) = namespaces(&folder, &name).await?;
        let (kubelet, containerd) = (Vec::new(), None);
        let mut node =
            Self { name, at, folder, kubelet, containerd, paused: false, connected: true, init, starter };
        node.start_containerd(place)?;
        Ok(node)
    }

    /// Waits until its Ready condition is `wanted`.
    pub async fn ready(&self, client: &Client, wanted: bool, within: Duration) -> Result<()> {
        let ready = |node: Option<&NodeObject>| {
            let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_deref());
            let ready = conditions.unwrap_or_default().iter().find(|condition| condition.type_ == "Ready");
            ready.is_some_and(|ready| (ready.status == "True") == wanted)
        };
        let nodes: Api<NodeObject> = Api::all(client.clone());
        let Ok(outcome) = timeout(within, await_condition(nodes, &self.name, ready)).await else {
            let daemons = self.containerd.iter().chain(&self.kubelet);
            let logs = daemons.map(Process::last_lines).collect::<Vec<_>>().join("\n");
            bail!("{} is not Ready={wanted} after {within:?}:\n{logs}", self.name);
        };
        outcome?;
        Ok(())
    }

    /// Starts kubelet and kube-proxy, once containerd has its socket: a kubelet without one exits.
    pub(super) async fn start_kubelet(&mut self, place: &Place) -> Result<()> {
        let socket = format!("/proc/{}/root/run/containerd/containerd.sock", self.init);
        eventually(START, LOOK, async || {
            ensure!(Path::new(&socket).exists(), "the containerd of {} does not start", self.name);
            Ok(())
        })
        .await?;
        let mut kubelet = Command::new(bed_file("kubelet")?);
        kubelet
            .arg(format!("--config={}", self.file("kubelet.json")))
            .arg(format!("--kubeconfig={}", place.file(&format!("{}.kubeconfig", self.name))))
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--node-ip={}", network::node_address(self.at)))
            .arg(format!("--node-labels=topology.kubernetes.io/zone=zone{}", self.at));
        let mut proxy = Command::new(bed_file("kube-proxy")?);
        proxy
            .arg(format!("--config={}", self.file("kube-proxy.json")))
            .arg(format!("--hostname-override={}", self.name));
        self.kubelet = vec![self.daemon("kubelet", &kubelet)?, self.daemon("kube-proxy", &proxy)?];
        Ok(())
    }

    /// Kills kubelet and kube-proxy. Containers keep running.
    pub fn stop_kubelet(&mut self) {
        self.kubelet.clear();
    }

    /// Kills daemons and containers at once.
    pub(super) async fn power_off(&mut self) -> Result<()> {
        let init = i32::try_from(self.init).ok().and_then(Pid::from_raw).context("the node runs")?;
        kill_process(init, Signal::KILL)?;
        self.kubelet.clear();
        self.containerd = None;
        self.paused = false;
        // It exits after its child, and that after every process in the PID namespace.
        self.starter.ended(START).await.map(drop)
    }

    /// Boots it again, with the disk that it had and no process of before.
    pub(super) async fn power_on(&mut self, place: &Place) -> Result<()> {
        fs::remove_file(self.folder.join("booted"))?;
        (self.init, self.starter) = namespaces(&self.folder, &self.name).await?;
        self.start_containerd(place)
    }

    /// Sends SIGSTOP to every process of the node: it hangs.
    pub fn pause(&mut self) -> Result<()> {
        self.paused = true;
        self.signal_all("STOP")
    }

    /// Sends SIGCONT to them.
    pub fn resume(&mut self) -> Result<()> {
        self.signal_all("CONT")?;
        self.paused = false;
        // `nsenter`, which waits for a daemon, stops with it.
        self.kubelet.iter_mut().chain(&mut self.containerd).try_for_each(Process::resume)
    }

    /// Takes its link down, or up again.
    pub(super) fn set_connected(&mut self, place: &Place, connected: bool) -> Result<()> {
        self.connected = connected;
        place.network.set_connected(&self.name, connected)
    }

    /// True if it has power, a kubelet and a network, and is not paused.
    pub(super) fn is_up(&self) -> bool {
        self.containerd.is_some() && !self.kubelet.is_empty() && self.connected && !self.paused
    }

    /// Resumes it, powers it on, connects it and starts its kubelet, as far as each is needed.
    pub(super) async fn restore(&mut self, place: &Place) -> Result<()> {
        if self.paused {
            self.resume()?;
        }
        if self.containerd.is_none() {
            self.power_on(place).await?;
        }
        if !self.connected {
            self.set_connected(place, true)?;
        }
        if self.kubelet.is_empty() {
            self.start_kubelet(place).await?;
        }
        Ok(())
    }

    fn signal_all(&self, signal: &str) -> Result<()> {
        let mut kill = Command::new("sh");
        kill.args(["-c", &format!("kill -{signal} -1")]);
        let status = through("nsenter", self.namespaces(), &kill).status()?;
        ensure!(status.success(), "the processes of {} take no signal", self.name);
        Ok(())
    }

    fn start_containerd(&mut self, place: &Place) -> Result<()> {
        place.network.plug(self.at, &self.name, self.init)?;
        self.connected = true;
        let mut containerd = Command::new(bed_file("containerd")?);
        containerd.arg("--config").arg(self.folder.join("containerd.toml"));
        self.containerd = Some(self.daemon("containerd", &containerd)?);
        Ok(())
    }

    /// Starts a daemon inside the node. It ends with the returned process, at the latest with the node.
    fn daemon(&self, name: &str, command: &Command) -> Result<Process> {
        let command = through("setpriv", ["--pdeathsig", "KILL"], command);
        let mut command = through("nsenter", self.namespaces(), &command);
        let programs = bed_file("")?.display().to_string();
        command.env("PATH", format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin"));
        Process::quietly(&format!("{}-{name}", self.name), command)
    }

    fn namespaces(&self) -> [String; 8] {
        let options = ["--target", "--mount", "--net", "--pid", "--uts", "--ipc", "--"];
        let [target, rest @ ..] = options.map(ToOwned::to_owned);
        let [mount, net, pid, uts, ipc, end] = rest;
        [target, self.init.to_string(), mount, net, pid, uts, ipc, end]
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Creates a node's namespaces; returns the PID of their first process, and the process that started it.
async fn namespaces(folder: &PathBuf, name: &str) -> Result<(u32, Process)> {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(["sh", "-c", INIT, "node-init", name])
        .arg(folder)
        .arg(bed_file("pause")?);
    let mut starter = Process::quietly(name, command)?;
    let id = starter.id().context("it was just started")?;
    let deadline = Instant::now() + START;
    let mut look = interval(LOOK);
    while !folder.join("booted").exists() {
        look.tick().await;
        if starter.exit_status()?.is_some() || Instant::now() > deadline {
            bail!("{name} does not boot:\n{}", starter.last_lines());
        }
    }
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let init = children.split_whitespace().next().context("unshare has no child")?.parse()?;
    Ok((init, starter))
}
