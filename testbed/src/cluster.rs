//! The namespace of one test, and the commands that a user runs there.

use std::{
    fmt::Debug,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    api::{ListParams, ObjectMeta, PostParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
    runtime::wait::await_condition,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;

use crate::{ControlPlane, control_plane, process::bed_program, scratch};

/// The namespace of one test.
pub struct Cluster {
    /// The kubeconfig of a cluster administrator.
    pub kubeconfig: PathBuf,
    /// A cluster administrator's client.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
    /// Stops with its last user.
    _control_plane: Option<Arc<ControlPlane>>,
}

impl Cluster {
    /// A new namespace, its name starting with `name`, on the control plane that all tests share.
    pub async fn new(name: &str) -> Result<Self> {
        Self::on(ControlPlane::shared().await?, name).await
    }

    /// A new namespace on a control plane of the test's own.
    pub async fn on(control_plane: Arc<ControlPlane>, name: &str) -> Result<Self> {
        let cluster = Self::at(control_plane.kubeconfig(), name).await?;
        Ok(Self { _control_plane: Some(control_plane), ..cluster })
    }

    /// A new namespace in the cluster that `kubeconfig` names.
    pub async fn at(kubeconfig: PathBuf, name: &str) -> Result<Self> {
        let client = control_plane::client(&kubeconfig).await?;
        let labels = [("samovar.dev/test".to_owned(), std::process::id().to_string())];
        let metadata = ObjectMeta {
            generate_name: Some(format!("{name}-")),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let namespace = Api::all(client.clone()).create(&PostParams::default(), &namespace).await?.name_any();
        Ok(Self { kubeconfig, client, namespace, _control_plane: None })
    }

    /// The objects of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `kubectl apply --server-side` of `yaml`, as the field manager `person`. A refusal is the error.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=person", "-f", "-"];
        self.kubectl_with_input(&arguments, yaml).await
    }

    /// The API server's answer to a dry run of all of `yaml`, whatever its namespaces; it stores nothing.
    pub async fn dry_run(&self, yaml: &str) -> Result<String> {
        let mut command = bed_program("kubectl")?;
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", scratch().join("kubectl"));
        command.args(["apply", "--dry-run=server", "--validate=strict", "-f", "-"]);
        let input = yaml.to_owned();
        spawn_blocking(move || output(command, &input)).await?
    }

    /// Runs `kubectl` in this namespace; returns its output, or its message as the error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with_input(arguments, "").await
    }

    /// A client with the rights of a token, and no others.
    pub async fn client_of(&self, token: &str) -> Result<Client> {
        let config = Kubeconfig::read_from(&self.kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        Ok(Client::try_from(config)?)
    }

    pub(crate) fn kubectl_command(&self) -> Result<Command> {
        let mut command = bed_program("kubectl")?;
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", scratch().join("kubectl"));
        command.arg("--namespace").arg(&self.namespace);
        Ok(command)
    }

    async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command()?;
        command.args(arguments);
        let input = input.to_owned();
        spawn_blocking(move || output(command, &input)).await?
    }

    /// Waits until `condition` holds for the object `name`, and returns the object. After `deadline` the error shows
    /// the object and its Events.
    pub async fn wait_for<K>(
        &self,
        name: &str,
        deadline: Duration,
        condition: impl Fn(&K) -> bool,
    ) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned
            + Send
            + 'static,
    {
        let waiting =
            await_condition(self.api::<K>(), name, |object: Option<&K>| object.is_some_and(&condition));
        if let Ok(object) = tokio::time::timeout(deadline, waiting).await {
            return object?.context("the condition held for no object");
        }
        bail!("after {deadline:?} this still does not hold:\n{}", self.describe::<K>(name).await?)
    }

    /// Waits until the object `name` is deleted. After `deadline` the error shows the object and its Events.
    pub async fn wait_until_gone<K>(&self, name: &str, deadline: Duration) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned
            + Send
            + 'static,
    {
        let waiting = await_condition(self.api::<K>(), name, |object: Option<&K>| object.is_none());
        if let Ok(outcome) = tokio::time::timeout(deadline, waiting).await {
            outcome?;
            return Ok(());
        }
        bail!("after {deadline:?} this still exists:\n{}", self.describe::<K>(name).await?)
    }

    /// The object `name` as JSON, and its Events.
    async fn describe<K>(&self, name: &str) -> Result<String>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object = match self.api::<K>().get_opt(name).await? {
            Some(mut object) => {
                object.meta_mut().managed_fields = None;
                serde_json::to_string_pretty(&object)?
            }
            None => format!("(there is no {name})"),
        };
        let of_object = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = self.api::<Event>().list(&of_object).await?.items.into_iter().map(|event| {
            let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
            format!("{} {reason}: {message}", event.type_.unwrap_or_default())
        });
        Ok(format!("{object}\nEvents:\n{}", events.collect::<Vec<_>>().join("\n")))
    }
}

fn output(mut command: Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}
