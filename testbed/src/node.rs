//! Nodes and agent Pods as a kubelet would report them: no kubelet runs beside a bare control plane.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use samovar_crds::names;
use serde_json::{Value, json};

use crate::Cluster;

/// The port that agent Pods declare. The agents of tests listen elsewhere: their addresses are made up,
/// since an EndpointSlice takes no loopback address.
pub const AGENT_PORT: u16 = 8080;
/// The namespace of the agents' Pods.
pub const AGENT_NAMESPACE: &str = "samovar-system";

/// One agent of the DaemonSet, as the API server knows it.
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
    /// A Ready node `<namespace>-<name>` without taints, with the label `test=<namespace>`. Nodes are the
    /// cluster's, not a namespace's: plugins of a test select theirs by that label.
    pub async fn node(&self, name: &str) -> Result<String> {
        let name = format!("{}-{name}", self.namespace);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({ "metadata": {
            "name": name, "labels": { "test": self.namespace, "kubernetes.io/hostname": name },
        }});
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        // Admission taints every new node `not-ready`; a whole controller manager takes that away again.
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

    /// A Ready agent Pod on `node`, in the agents' namespace.
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
        // Different for each Pod, as addresses are, and never one that something answers at.
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

    /// Removes the agent's Pod at once, as after its node is gone.
    pub async fn remove_agent_pod(&self, agent: &AgentPod) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &agent.namespace);
        pods.delete(&agent.name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// The agents' namespace, with the ServiceAccount that every Pod needs. A whole controller manager would
    /// have made that.
    async fn agent_namespace(&self) -> Result<()> {
        let namespace: Namespace =
            serde_json::from_value(json!({ "metadata": { "name": AGENT_NAMESPACE } }))?;
        let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": "default" } }))?;
        there(Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await)?;
        let accounts = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        there(accounts.create(&PostParams::default(), &account).await)?;
        // Empty, as the chart makes them: the operator fills them.
        let keys: Secret =
            serde_json::from_value(json!({ "metadata": { "name": "samovar-operator-keys" } }))?;
        let keys_api = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        there(keys_api.create(&PostParams::default(), &keys).await)?;
        let ca: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "samovar-operator-ca" } }))?;
        let ca_api = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        there(ca_api.create(&PostParams::default(), &ca).await)
    }
}

/// Made now, or by another test before.
fn there<K>(made: kube::Result<K>) -> Result<()> {
    match made {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

fn ready_condition(ready: bool) -> Value {
    json!({ "type": "Ready", "status": if ready { "True" } else { "False" } })
}
