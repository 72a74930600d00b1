//! The stage of a test: a namespace in a cluster with Samovar installed, and a Pod that calls plugins.

use std::{
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
    runtime::wait::await_condition,
};
pub use samovar_testbed::{ADD, MULTIPLY, condition, message};
use samovar_testbed::{CLIENT, Cluster, Helm, Registry, TestBed, push_client, push_images, scratch};
use tokio::{
    sync::{OnceCell, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock},
    time::timeout,
};

/// The deadline for what takes a moment, on a machine that runs many tests at once. A kubelet whose connection broke may
/// need 45 s to make another.
pub const SOON: Duration = Duration::from_secs(90);
/// The nodes of the bed.
const NODES: u8 = 3;
/// The namespace of the release.
pub const SYSTEM: &str = "samovar-system";

/// The cluster that all tests share, with the release `samovar` of the chart.
pub struct World {
    kubeconfig: PathBuf,
    source: Source,
}

/// The origin of the cluster.
enum Source {
    /// The test bed, which the tests start.
    Bed(Box<TestBed>),
    /// A cluster that runs already, with a registry that its nodes and this machine reach under one name.
    Given(Box<Registry>),
}

impl World {
    async fn start() -> Result<Self> {
        let mut world = match (
            std::env::var("SAMOVAR_TEST_CLUSTER").as_deref(),
            std::env::var_os("KUBECONFIG"),
        ) {
            (Ok("existing"), Some(kubeconfig)) => {
                let registry = std::env::var("SAMOVAR_TEST_REGISTRY").context(
                    "SAMOVAR_TEST_REGISTRY is not set: name a registry, HOST:PORT without TLS, that this machine, \
                     the nodes and the Pods of your cluster reach",
                )?;
                println!("the cluster of KUBECONFIG, with the registry {registry}");
                Self {
                    kubeconfig: kubeconfig.into(),
                    source: Source::Given(Box::new(Registry::at(registry)?)),
                }
            }
            (Ok("existing"), None) => {
                bail!("SAMOVAR_TEST_CLUSTER is existing: set KUBECONFIG to that cluster's")
            }
            _ => {
                println!("the test bed, on this machine");
                let bed = TestBed::start(NODES).await?;
                Self { kubeconfig: bed.kubeconfig(), source: Source::Bed(Box::new(bed)) }
            }
        };
        push_images(world.registry()).await?;
        push_client(world.registry()).await?;
        let helm = world.helm();
        if let Source::Given(_) = world.source {
            helm.remove_at_end().await?;
        }
        helm.install(&[]).await?;
        Ok(world)
    }

    pub fn registry(&mut self) -> &mut Registry {
        match &mut self.source {
            Source::Bed(bed) => bed.registry(),
            Source::Given(registry) => registry,
        }
    }

    /// The test bed, for tests that stop its nodes and servers.
    pub fn bed(&mut self) -> Result<&mut TestBed> {
        match &mut self.source {
            Source::Bed(bed) => Ok(bed),
            Source::Given(_) => {
                bail!("this test needs the test bed: leave on_the_bed out (--skip on_the_bed)")
            }
        }
    }

    fn registry_address(&self) -> String {
        match &self.source {
            Source::Bed(bed) => bed.registry_address().to_owned(),
            Source::Given(registry) => registry.address().to_owned(),
        }
    }

    pub fn helm(&self) -> Helm {
        Helm::new(&self.kubeconfig, SYSTEM, &self.registry_address())
    }

    async fn is_whole(&self) -> Result<bool> {
        match &self.source {
            Source::Bed(bed) => bed.is_whole().await,
            Source::Given(_) => Ok(true),
        }
    }

    /// Restores the bed, and waits until each node has a ready agent.
    async fn restore(&mut self) -> Result<()> {
        let bed = self.bed()?;
        bed.restore().await?;
        let agents: Api<DaemonSet> = Api::namespaced(bed.client().await?, SYSTEM);
        let all_ready = |agents: Option<&DaemonSet>| {
            let status = agents.and_then(|agents| agents.status.as_ref());
            status.is_some_and(|status| {
                status.number_ready == status.desired_number_scheduled
                    && status.desired_number_scheduled == i32::from(NODES)
            })
        };
        timeout(SOON, await_condition(agents, "samovar-agent", all_ready)).await??;
        Ok(())
    }
}

/// The world, for one test alone. A test that failed midway may have left nodes and servers off, and the tests after it
/// would fail too: so each test first restores the bed.
async fn restored(world: Arc<RwLock<World>>) -> Result<OwnedRwLockWriteGuard<World>> {
    let mut world = world.write_owned().await;
    if !world.is_whole().await? {
        println!("an earlier test left the bed changed: restoring it");
        world.restore().await?;
    }
    Ok(world)
}

/// The one world of this process, started by the first caller.
async fn world() -> Result<Arc<RwLock<World>>> {
    static WORLD: OnceCell<Result<Arc<RwLock<World>>, String>> = OnceCell::const_new();
    let start = || async {
        World::start().await.map(RwLock::new).map(Arc::new).map_err(|error| format!("{error:?}"))
    };
    WORLD.get_or_init(start).await.clone().map_err(|error| anyhow!("the cluster did not start: {error}"))
}

/// The namespace of one test; `W` is its lock on the world.
pub struct Stage<W = OwnedRwLockReadGuard<World>> {
    stage: samovar_testbed::Stage,
    pub world: W,
}

/// A stage whose test has the cluster for itself.
pub type Alone = Stage<OwnedRwLockWriteGuard<World>>;

impl<W> Deref for Stage<W> {
    type Target = samovar_testbed::Stage;

    fn deref(&self) -> &Self::Target {
        &self.stage
    }
}

impl<W> DerefMut for Stage<W> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.stage
    }
}

impl Stage {
    /// A namespace, in a cluster that other tests use too.
    pub async fn new(name: &str) -> Result<Self> {
        let world = world().await?;
        let mut shared = Arc::clone(&world).read_owned().await;
        if !shared.is_whole().await? {
            drop(shared);
            shared = restored(world).await?.downgrade();
        }
        Self::at(shared, name).await
    }
}

impl Alone {
    /// A namespace, once no other test uses the cluster.
    pub async fn new_alone(name: &str) -> Result<Self> {
        Self::at(restored(world().await?).await?, name).await
    }
}

impl<W: Deref<Target = World>> Stage<W> {
    async fn at(world: W, name: &str) -> Result<Self> {
        let cluster = Cluster::at(world.kubeconfig.clone(), name).await?;
        let registry = Registry::at(world.registry_address())?;
        let stage = samovar_testbed::Stage { cluster, registry, spec: String::new(), soon: SOON };
        Ok(Self { stage, world })
    }

    /// Starts a sleeping Pod with curl, on `node` if one is given, and waits until it is ready.
    pub async fn client(&self, node: Option<&str>) -> Result<()> {
        self.client_that("client", node, "exec sleep 3600").await?;
        self.cluster
            .kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=40s"])
            .await
            .map(drop)
    }

    /// Starts a Pod `name` that runs a script with sh, under the restricted Pod Security Standard.
    pub async fn client_that(&self, name: &str, node: Option<&str>, script: &str) -> Result<()> {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": {
                "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                // The Pod stays on a node that is NotReady.
                "tolerations": [{ "effect": "NoExecute", "operator": "Exists" }],
                "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{
                    "name": "client", "image": format!("{}/{CLIENT}:{}", self.registry.address(), env!("CARGO_PKG_VERSION")),
                    "command": ["sh", "-c", script],
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                    },
                }],
            },
        });
        self.cluster.apply(&pod.to_string()).await.map(drop)
    }

    /// Starts a sleeping Pod with a ServiceAccount of the release's namespace on a node; returns its name.
    pub async fn pod_as(&self, account: &str, node: &str) -> Result<String> {
        let name = format!("twin-{}", self.cluster.namespace);
        let image = format!("{}/{CLIENT}:{}", self.registry.address(), env!("CARGO_PKG_VERSION"));
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": SYSTEM },
            "spec": {
                "serviceAccountName": account, "nodeName": node, "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "sleep", "image": image, "args": ["3600"] }],
            },
        });
        Api::namespaced(self.cluster.client.clone(), SYSTEM)
            .create(&PostParams::default(), &serde_json::from_value::<Pod>(pod)?)
            .await?;
        Ok(name)
    }

    /// Runs curl in the client Pod; returns its output.
    pub async fn curl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = vec!["exec", "client", "--", "curl", "-sS", "--max-time", "10"];
        command.extend(arguments);
        self.cluster.kubectl(&command).await
    }

    /// The agents' Pods, without those that are terminating.
    pub async fn agents(&self) -> Result<Vec<Pod>> {
        let agents = ListParams::default().labels("app.kubernetes.io/component=agent");
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), SYSTEM).list(&agents).await?;
        Ok(pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The Pod of the agent on a node.
    pub async fn agent_on(&self, node: &str) -> Result<Pod> {
        let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        self.agents().await?.into_iter().find(on).with_context(|| format!("{node} has no agent"))
    }
}

/// Repeats `attempt` until it succeeds; after [`SOON`] returns its last error.
pub async fn eventually<T>(attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    samovar_testbed::eventually(SOON, Duration::from_millis(100), attempt).await
}

/// The folder `name` of the project.
pub fn project(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// A new folder for one test's files.
pub fn files(stage_of: &str) -> Result<PathBuf> {
    let folder = scratch().join(format!("files-{stage_of}"));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The names of Pods, for error messages.
pub fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}
