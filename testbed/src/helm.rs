//! Helm, and the release of the project's chart.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use tokio::task::spawn_blocking;

use crate::{
    process::bed_program,
    scratch::{self, scratch},
};

/// The name of the release.
const RELEASE: &str = "samovar";

/// A release `samovar` in one namespace of one cluster.
#[derive(Clone)]
pub struct Helm {
    kubeconfig: PathBuf,
    namespace: String,
    registry: String,
}

impl Helm {
    /// A release with the images of `registry`.
    pub fn new(kubeconfig: &Path, namespace: &str, registry: &str) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
            registry: registry.to_owned(),
        }
    }

    /// Installs the chart as a new user does, with these values and those of the registry, and waits until all is
    /// ready.
    pub async fn install(&self, values: &[&str]) -> Result<String> {
        self.with_chart(&["install", "--create-namespace"], values).await
    }

    /// Upgrades to these values, and waits until all is ready.
    pub async fn upgrade(&self, values: &[&str]) -> Result<String> {
        self.with_chart(&["upgrade"], values).await
    }

    async fn with_chart(&self, verb: &[&str], values: &[&str]) -> Result<String> {
        self.with_chart_at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/samovar"), verb, values)
            .await
    }

    /// `helm VERB samovar CHART`, with these values.
    pub async fn with_chart_at(&self, chart: &Path, verb: &[&str], values: &[&str]) -> Result<String> {
        let registry = format!("global.imageRegistry={}", self.registry);
        let insecure = format!("registry.insecure={{{}}}", self.registry);
        let chart = chart.display().to_string();
        let mut arguments = verb.to_vec();
        arguments.extend([
            RELEASE,
            &chart,
            "--wait",
            "--timeout=90s",
            "--set",
            &registry,
            "--set",
            &insecure,
        ]);
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        self.run(&arguments).await
    }

    /// Runs any other command of Helm in the release's namespace; returns its output, or its message as the error.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command()?;
        command.args(arguments);
        let output = spawn_blocking(move || command.output()).await??;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {}: {}", arguments.join(" "), error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Uninstalls all of it when this process ends, for a cluster that is not the test bed's. Fails, and touches
    /// nothing, if the cluster has Samovar or its CRDs already.
    pub async fn remove_at_end(&self) -> Result<()> {
        let mut kubectl = bed_program("kubectl")?;
        kubectl.env("KUBECONFIG", &self.kubeconfig).args(["get", "--ignore-not-found", "--output=name"]);
        kubectl.args([&format!("namespace/{}", self.namespace), "crd/wasmplugins.samovar.dev"]);
        kubectl.arg("crd/pluginassignments.samovar.dev");
        let output = spawn_blocking(move || kubectl.output()).await??;
        let found = String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", ");
        ensure!(
            output.status.success(),
            "the cluster does not answer: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(
            found.is_empty(),
            "the cluster has {found} already, which the tests would remove: use another cluster"
        );
        let helm = self.command()?;
        let kubectl = bed_program("kubectl")?;
        let (helm, kubectl) = (helm.get_program().display(), kubectl.get_program().display());
        let (kubeconfig, namespace, run) = (self.kubeconfig.display(), &self.namespace, std::process::id());
        let script = format!(
            "export KUBECONFIG='{kubeconfig}'\n\
             '{kubectl}' delete namespace --selector samovar.dev/test={run} --wait=false\n\
             '{helm}' uninstall {RELEASE} --namespace {namespace} --wait\n\
             '{kubectl}' delete crd wasmplugins.samovar.dev pluginassignments.samovar.dev\n\
             '{kubectl}' delete namespace {namespace} --wait=false\n"
        );
        Ok(scratch::at_end("release", &script)?)
    }

    fn command(&self) -> Result<Command> {
        let mut command = bed_program("helm")?;
        let own = scratch().join("helm");
        command.env("KUBECONFIG", &self.kubeconfig).env("HELM_NAMESPACE", &self.namespace);
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, own.join(folder));
        }
        Ok(command)
    }
}
