//! A control plane: one etcd, one kube-apiserver, one controller manager that only collects garbage.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};
use tokio::{
    sync::OnceCell,
    time::{Instant, interval, timeout},
};

use crate::{
    pki::Pki,
    process::{Process, bed_program, free_port},
    scratch,
};

/// The deadline for the servers to be ready; they need 3 s on two idle cores.
const START: Duration = Duration::from_mins(1);
/// Starts that are tried: another process may take a port between its choice and its use.
const ATTEMPTS: u32 = 3;

/// A running control plane.
pub struct ControlPlane {
    folder: PathBuf,
    _servers: Vec<Process>,
}

impl ControlPlane {
    /// The control plane that all tests of this process share, started by the first caller.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Result<Arc<ControlPlane>, String>> = OnceCell::const_new();
        let start = || async { Self::start().await.map(Arc::new).map_err(|error| format!("{error:?}")) };
        SHARED.get_or_init(start).await.clone().map_err(|error| anyhow!(error))
    }

    /// A control plane of the test's own, for a test that stops what others rely on.
    pub async fn start() -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::start_once().await {
                Err(error) if attempt < ATTEMPTS && error.is::<AddressTaken>() => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn start_once() -> Result<Self> {
        let folder = scratch::folder("control-plane")?;
        let (etcd_port, peer_port, api_port) = (free_port()?, free_port()?, free_port()?);
        let server = format!("https://127.0.0.1:{api_port}");

        let mut etcd = Process::quietly("etcd", etcd(&folder, etcd_port, peer_port)?)?;
        let pki = Pki::new(&folder)?;
        pki.certificate("kube-apiserver", "kube-apiserver", None, &["127.0.0.1", "localhost"])?;
        pki.certificate("admin", "admin", Some("system:masters"), &[])?;
        pki.kubeconfig("admin", &server)?;
        let mut api = Process::quietly("kube-apiserver", kube_apiserver(&folder, etcd_port, api_port)?)?;
        ready(&folder.join("admin.kubeconfig"), [&mut etcd, &mut api]).await?;
        install_crds(&client(&folder.join("admin.kubeconfig")).await?).await?;
        let collector = Process::quietly("kube-controller-manager", garbage_collector(&folder)?)?;
        Ok(Self { folder, _servers: vec![collector, api, etcd] })
    }

    /// The kubeconfig of a cluster administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A client of a cluster administrator. A client belongs to the runtime of its test, so each makes its own.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig()).await
    }
}

fn etcd(folder: &Path, port: u16, peer_port: u16) -> Result<Command> {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = bed_program("etcd")?;
    command
        .args(["--name=bed", "--unsafe-no-fsync", "--log-level=warn"])
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=bed={peer}"));
    Ok(command)
}

fn kube_apiserver(folder: &Path, etcd_port: u16, port: u16) -> Result<Command> {
    let file = |name: &str| folder.join(name).display().to_string();
    let mut command = bed_program("kube-apiserver")?;
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
        .args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"])
        .arg(format!("--secure-port={port}"))
        .arg(format!("--cert-dir={}", file("certificates")))
        .arg(format!("--tls-cert-file={}", file("kube-apiserver.crt")))
        .arg(format!("--tls-private-key-file={}", file("kube-apiserver.key")))
        .arg(format!("--client-ca-file={}", file("ca.crt")))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(format!("--service-account-signing-key-file={}", file("service-account.key")))
        .arg(format!("--service-account-key-file={}", file("service-account.pub")))
        .arg("--service-cluster-ip-range=10.0.0.0/16")
        // Requires rights on the owner of whoever sets blockOwnerDeletion, as OpenShift and others do.
        .args([
            "--authorization-mode=RBAC",
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        ])
        .args(["--watch-cache=true", "--profiling=false"]);
    Ok(command)
}

/// Creates Samovar's CRDs from the Rust types.
async fn install_crds(client: &Client) -> Result<()> {
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    for crd in samovar_crds::all() {
        let name = crd.name_any();
        crds.create(&PostParams::default(), &crd).await.with_context(|| format!("CRD {name} is refused"))?;
        let established = await_condition(crds.clone(), &name, conditions::is_crd_established());
        timeout(START, established).await.with_context(|| format!("CRD {name} is not established"))??;
    }
    Ok(())
}

fn garbage_collector(folder: &Path) -> Result<Command> {
    let kubeconfig = folder.join("admin.kubeconfig");
    let mut command = bed_program("kube-controller-manager")?;
    command
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(["--controllers=garbage-collector-controller"])
        .args(["--leader-elect=false", "--secure-port=0", "--profiling=false"]);
    Ok(command)
}

/// Another process took a port between its choice and its use.
#[derive(Debug)]
struct AddressTaken;

impl std::fmt::Display for AddressTaken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a port of the test bed was taken by another process")
    }
}

impl std::error::Error for AddressTaken {}

pub(crate) async fn ready(kubeconfig: &Path, mut servers: [&mut Process; 2]) -> Result<()> {
    let client = client(kubeconfig).await?;
    let deadline = Instant::now() + START;
    let mut look = interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let Err(error) = client.request_text(request).await else {
            return Ok(());
        };
        for server in &mut servers {
            if server.exit_status()?.is_some() {
                let log = server.last_lines();
                if log.contains("address already in use") {
                    return Err(AddressTaken.into());
                }
                bail!("a server of the test bed ended:\n{log}");
            }
        }
        if Instant::now() > deadline {
            let logs = servers.map(|server| server.last_lines()).join("\n");
            return Err(error).with_context(|| format!("the test bed is not ready after {START:?}:\n{logs}"));
        }
    }
}

pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
