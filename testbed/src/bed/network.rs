//! The network of a bed: a namespace for the servers, with a bridge that connects the nodes, and one link to the
//! machine.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, interval};

use super::START;
use crate::{
    Process,
    process::{LOOK, bed_file},
};

/// The most beds at once on one machine.
const BEDS: u8 = 64;
/// The bridge's address, and the resolver's, as the nodes and Pods see them.
pub(super) const BRIDGE: &str = "10.77.0.1";
/// The range of all Services.
pub(super) const SERVICES: &str = "10.79.0.0/16";
/// The Service of the cluster's DNS.
pub(super) const DNS: &str = "10.79.0.10";
/// The Service of the API server: the first of the range.
pub(super) const API_SERVICE: &str = "10.79.0.1";
/// The range of all Pods.
pub(super) const PODS: &str = "10.78.0.0/16";

/// The address of the node with this number.
pub(super) fn node_address(at: u8) -> String {
    format!("10.77.0.{}", 100 + u16::from(at))
}

/// The range of the Pods of the node with this number.
pub(super) fn pods_of(at: u8) -> String {
    format!("10.78.{at}.0/24")
}

/// The network of one bed. The kernel removes it once it is dropped and no process is left in it.
pub(super) struct Network {
    number: u8,
    /// The PID of the process that keeps the servers' namespace alive.
    holder: u32,
    _holder: Process,
}

impl Network {
    /// Creates the namespace and its link to the machine, under the first free number.
    pub(super) async fn new() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(bed_file("pause")?);
        let holder = Process::quietly("network", command)?;
        let id = holder.id().context("the holder of the network runs")?;
        entered(id).await?;
        for number in 0..BEDS {
            let end = ["address", "add", &format!("198.18.{number}.1/30"), "dev", &link(number)];
            let made = ip(["link", "add", &link(number), "type", "veth", "peer", "name", "machine", "netns"]
                .into_iter()
                .chain([id.to_string().as_str()]));
            match made {
                Err(error) if error.to_string().contains("File exists") => continue,
                outcome => outcome?,
            }
            ip(end)?;
            ip(["link", "set", &link(number), "up"])?;
            let network = Self { number, holder: id, _holder: holder };
            network.set_up()?;
            return Ok(network);
        }
        bail!("this machine carries {BEDS} test beds already: stop one (make cluster-down)")
    }

    /// The number of this bed, unique on the machine.
    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// The interface that leads from the machine into the bed.
    pub(super) fn interface(&self) -> String {
        link(self.number)
    }

    /// The servers' address for nodes, Pods and the machine alike, of the range that RFC 2544 reserves for tests.
    pub(super) fn address(&self) -> String {
        format!("198.18.{}.2", self.number)
    }

    /// `command`, in the servers' namespace.
    pub(super) fn inside(&self, command: &Command) -> Command {
        crate::process::through("nsenter", [format!("--net=/proc/{}/ns/net", self.holder)], command)
    }

    /// Joins the network namespace of the process `init` to the bridge, as the node with this number.
    pub(super) fn plug(&self, at: u8, name: &str, init: u32) -> Result<()> {
        let (init, address) = (init.to_string(), node_address(at));
        // The link of a node that was powered off is gone with its other end, or about to be.
        let _ = self.ip(["link", "delete", name]);
        self.ip(["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &init])?;
        self.ip(["link", "set", name, "master", "nodes", "up"])?;
        self.ip(["route", "replace", &pods_of(at), "via", &address])?;
        let node = |arguments: &[&str]| {
            let target = ["--target", init.as_str(), "--net", "--", "ip"];
            run("nsenter", target.into_iter().chain(arguments.iter().copied()))
        };
        node(&["link", "set", "lo", "up"])?;
        node(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        node(&["link", "set", "eth0", "up"])?;
        // No default route: nothing outside the bed is reachable. kube-proxy rewrites packets to Services before this
        // route applies, but without one none would be sent. Other nodes' Pods are one hop further.
        for range in [SERVICES, PODS, &format!("198.18.{}.0/30", self.number)] {
            node(&["route", "add", range, "via", BRIDGE])?;
        }
        let sysctls = ["net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"];
        let target = ["--target", init.as_str(), "--net", "--", "sysctl", "-qw"];
        run("nsenter", target.into_iter().chain(sysctls))
    }

    /// Takes the link of a node down, or up again.
    pub(super) fn set_connected(&self, node: &str, connected: bool) -> Result<()> {
        self.ip(["link", "set", node, if connected { "up" } else { "down" }])
    }

    fn set_up(&self) -> Result<()> {
        self.ip(["link", "set", "lo", "up"])?;
        self.ip(["address", "add", &format!("{}/30", self.address()), "dev", "machine"])?;
        self.ip(["link", "set", "machine", "up"])?;
        // By default a bridge has the MAC address of one of its ports, and changes it when that node goes.
        self.ip(["link", "add", "nodes", "address", "02:00:0a:4d:00:01", "type", "bridge"])?;
        self.ip(["address", "add", &format!("{BRIDGE}/24"), "dev", "nodes"])?;
        self.ip(["link", "set", "nodes", "up"])?;
        // Forwards between the Pods of two nodes.
        let mut sysctl = Command::new("sysctl");
        sysctl.args(["-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0"]);
        succeeded(&mut self.inside(&sysctl))
    }

    fn ip<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(arguments);
        succeeded(&mut self.inside(&ip))
    }
}

fn link(number: u8) -> String {
    format!("samovar{number}")
}

/// Waits until the process is in a network namespace of its own.
async fn entered(id: u32) -> Result<()> {
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let deadline = Instant::now() + START;
    let mut look = interval(LOOK);
    while std::fs::read_link(format!("/proc/{id}/ns/net"))? == own {
        ensure!(Instant::now() < deadline, "no network namespace can be made: does this machine allow it?");
        look.tick().await;
    }
    Ok(())
}

fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    run("ip", arguments)
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    succeeded(Command::new(program).args(arguments))
}

fn succeeded(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be started"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", error.trim());
    Ok(())
}
