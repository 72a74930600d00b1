//! Restores a bed after a test that failed before it had put back what it took away.

use anyhow::Result;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{START, TestBed, node::Node};

/// The taints of Kubernetes itself, which come and go with a node's conditions.
const OWN_TAINTS: &str = "node.kubernetes.io/";

impl TestBed {
    /// True if everything runs that the bed started, and its nodes are as they were then.
    pub async fn is_whole(&self) -> Result<bool> {
        // Checked first: the API server itself may be off.
        let runs = self.servers.run()
            && !self.registry.is_stopped()
            && self.nodes.len() == usize::from(self.started)
            && self.nodes.iter().all(Node::is_up);
        Ok(runs && self.differing(&self.client().await?).await?.is_empty())
    }

    /// Starts, resumes and connects what is off; removes the nodes that were added, and every cordon and taint. Waits
    /// until all nodes are Ready.
    pub async fn restore(&mut self) -> Result<()> {
        self.servers.restore()?;
        self.registry.restore().await?;
        self.servers.ready(&self.place.kubeconfig()).await?;
        let client = self.client().await?;
        let nodes: Api<NodeObject> = Api::all(client.clone());
        for added in self.nodes.split_off(usize::from(self.started).min(self.nodes.len())) {
            if nodes.get_opt(added.name()).await?.is_some() {
                nodes.delete(added.name(), &DeleteParams::default()).await?;
            }
        }
        for node in &mut self.nodes {
            node.restore(&self.place).await?;
        }
        for name in self.differing(&client).await? {
            let Some(at) = self.nodes.iter().position(|node| node.name() == name) else { continue };
            if nodes.get_opt(&name).await?.is_some() {
                let none = json!({ "spec": { "unschedulable": null, "taints": null } });
                nodes.patch(&name, &PatchParams::default(), &Patch::Merge(none)).await?;
            } else {
                // A kubelet registers its node when it starts.
                self.nodes[at].stop_kubelet();
                self.nodes[at].start_kubelet(&self.place).await?;
            }
        }
        for node in &self.nodes {
            node.ready(&client, true, START).await?;
        }
        Ok(())
    }

    /// The names of the bed's nodes that the cluster lacks, or that a test left cordoned or tainted.
    async fn differing(&self, client: &Client) -> Result<Vec<String>> {
        let objects = Api::<NodeObject>::all(client.clone()).list(&ListParams::default()).await?.items;
        let is_clean = |object: &NodeObject| {
            let spec = object.spec.as_ref();
            let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            spec.is_none_or(|spec| spec.unschedulable != Some(true))
                && taints.iter().all(|taint| taint.key.starts_with(OWN_TAINTS))
        };
        let clean: Vec<_> =
            objects.iter().filter(|object| is_clean(object)).map(ResourceExt::name_any).collect();
        let names = self.nodes.iter().map(|node| node.name().to_owned());
        Ok(names.filter(|name| !clean.contains(name)).collect())
    }
}
