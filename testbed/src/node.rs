//! Reports nodes and agent Pods in place of kubelets, which a bare control plane lacks.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use samovar_crds::names;
use serde_json::{Value, json};

use crate::Cluster;

/// The port that agent Pods declare. The agents of tests listen elsewhere: their Pods' addresses are made up, since an
/// EndpointSlice accepts no loopback address.
pub const AGENT_PORT: u16 = 8080;
/// The namespace of the agents' Pods.
pub const AGENT_NAMESPACE: &str = "samovar-system";

/// The Pod of one agent.
#[derive(Clone, Debug)]
pub struct AgentPod {
    /// Its node.
    pub node: String,
    /// Its Pod's name.
    pub name: String,
    /// Its Pod's namespace.
    pub namespace: String,
    /// Its Pod's UID.
    pub uid: String,
    /// Its Pod's made-up address.
    pub ip: String,
}

impl Cluster {
    /// Creates a Ready node `<namespace>-<name>` without taints, with the label `test=<namespace>`, by which the
    /// plugins of a test select their nodes.
    pub async fn node(&self, name: &str) -> Result<String> {
        let name = format!("{}-{name}", self.namespace);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({ "metadata": {
            "name": name, "labels": { "test": self.namespace, "kubernetes.io/hostname": name },
        }});
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        // Admission taints every new node `not-ready`; a full controller manager would remove the taint.
        let no_taints = json!({ "spec": { "taints": null } });
        nodes.patch(&name, &PatchParams::default(), &Patch::Merge(no_taints)).await?;
        self.set_node_ready(&name, true).await?;
        Ok(name)
    }

    /// Reports the node `name` as Ready or not.
    pub async fn set_node_ready(&self, name: &str, ready: bool) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let status = json!({ "status": { "conditions": [ready_condition(ready)] } });
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Creates a Ready agent Pod on `node`, in the agents' namespace.
    pub async fn agent_pod(&self, node: &str) -> Result<AgentPod> {
        self.agent_namespace().await?;
        let labels: Value = names::AGENT_SELECTOR
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        let pod = json!({
            "metadata": { "generateName": "agent-", "labels": labels },
            "spec": {
                "nodeName": node,
                "containers": [{
                    "name": "agent", "image": "samovar",
                    "ports": [{ "name": names::HTTP_PORT, "containerPort": AGENT_PORT }],
                }],
            },
        });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let uid = pod.uid().context("the API server gives every Pod a UID")?;
        // Unique for each Pod, and never an address that something answers at.
        let [a, b, c] = [0, 2, 4].map(|at| u8::from_str_radix(&uid[at..at + 2], 16).unwrap_or_default());
        let agent = AgentPod {
            node: node.to_owned(),
            name: pod.name_any(),
            namespace: AGENT_NAMESPACE.to_owned(),
            uid,
            ip: format!("10.{a}.{b}.{c}"),
        };
        self.set_agent_ready(&agent, true).await?;
        Ok(agent)
    }

    /// Reports the agent's Pod as Ready or not.
    pub async fn set_agent_ready(&self, agent: &AgentPod, ready: bool) -> Result<()> {
        let status = json!({ "status": {
            "phase": "Running", "podIP": agent.ip, "podIPs": [{ "ip": agent.ip }],
            "conditions": [ready_condition(ready)],
        }});
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &agent.namespace);
        pods.patch_status(&agent.name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Deletes the agent's Pod at once, as after its node is gone.
    pub async fn remove_agent_pod(&self, agent: &AgentPod) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &agent.namespace);
        pods.delete(&agent.name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// Creates the agents' namespace, and the ServiceAccount that every Pod needs and a full controller manager would
    /// create.
    async fn agent_namespace(&self) -> Result<()> {
        let namespace: Namespace =
            serde_json::from_value(json!({ "metadata": { "name": AGENT_NAMESPACE } }))?;
        let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": "default" } }))?;
        created(Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await)?;
        let accounts = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        created(accounts.create(&PostParams::default(), &account).await)?;
        // Empty, as the chart creates them: the operator fills them.
        let keys: Secret =
            serde_json::from_value(json!({ "metadata": { "name": "samovar-operator-keys" } }))?;
        let keys_api = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        created(keys_api.create(&PostParams::default(), &keys).await)?;
        let ca: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "samovar-operator-ca" } }))?;
        let ca_api = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        created(ca_api.create(&PostParams::default(), &ca).await)
    }
}

/// Accepts that another test has created the object before.
fn created<K>(outcome: kube::Result<K>) -> Result<()> {
    match outcome {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

fn ready_condition(ready: bool) -> Value {
    json!({ "type": "Ready", "status": if ready { "True" } else { "False" } })
}
