//! Builds the desired objects of a plugin. Pure.

mod assignments;
mod endpoints;
mod revisions;
mod service;

use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource as _, ResourceExt as _};
use samovar_crds::{PluginAssignment, WasmPlugin, names};

pub(crate) use assignments::is_ready;

use crate::{observe::Observed, place::Placement, revision::Revision};

/// The desired objects of a plugin, before they are applied.
pub(crate) struct Prepared {
    pub(crate) revisions: Vec<ControllerRevision>,
    pub(crate) service: Service,
    pub(crate) assignments: Vec<PluginAssignment>,
    pub(crate) slices: Vec<EndpointSlice>,
}

/// Builds the objects of `plugin`, with `revision` on the placed agents.
pub(crate) fn build(
    plugin: &WasmPlugin,
    revision: Option<&Revision>,
    placement: &Placement,
    observed: &Observed,
) -> Prepared {
    let owned = Owned { plugin };
    let assignments = assignments::build(&owned, revision, placement, &observed.assignments);
    Prepared {
        revisions: revisions::build(&owned, revision, &observed.revisions, &assignments),
        service: service::build(&owned),
        slices: endpoints::build(&owned, placement, &observed.assignments),
        assignments,
    }
}

/// The owner of the objects, from which their common metadata comes.
struct Owned<'a> {
    plugin: &'a WasmPlugin,
}

impl Owned<'_> {
    fn metadata(&self, name: String) -> ObjectMeta {
        let labels = [
            ("app.kubernetes.io/managed-by", names::OPERATOR.to_owned()),
            (names::PLUGIN_LABEL, self.plugin.name_any()),
        ];
        ObjectMeta {
            name: Some(name),
            namespace: self.plugin.namespace(),
            labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            owner_references: Some(vec![OwnerReference {
                api_version: WasmPlugin::api_version(&()).into_owned(),
                kind: WasmPlugin::kind(&()).into_owned(),
                name: self.plugin.name_any(),
                uid: self.plugin.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        place::{Agent, ChosenNode},
        revision::RevisionData,
    };

    pub(crate) fn plugin() -> WasmPlugin {
        serde_json::from_value(json!({
            "apiVersion": "samovar.dev/v1alpha1", "kind": "WasmPlugin",
            "metadata": { "name": "text", "namespace": "demo", "uid": "u1", "generation": 2 },
            "spec": { "image": "r/text:1" }
        }))
        .unwrap()
    }

    pub(crate) fn revision(name: &str, number: i64) -> Revision {
        let template = plugin().spec.template;
        Revision {
            name: name.to_owned(),
            number,
            data: RevisionData { template, image: "r/text@sha256:1".to_owned(), contents: None },
        }
    }

    pub(crate) fn placement(nodes: &[&str]) -> Placement {
        let node = |name: &&str| ChosenNode {
            name: (*name).to_owned(),
            agents: vec![Agent {
                reference: samovar_crds::AgentRef {
                    pod_name: format!("agent-{name}"),
                    pod_uid: format!("uid-{name}"),
                },
                namespace: "samovar-system".to_owned(),
                is_ready: true,
                ip: Some(format!("10.0.0.{}", name.len())),
                port: Some(8080),
            }],
        };
        Placement { nodes: nodes.iter().map(node).collect(), desired: nodes.len(), leaving: Vec::new() }
    }

    /// The assignments of a revision on the placed agents, with a status.
    pub(crate) fn assigned(
        revision: &Revision,
        placement: &Placement,
        status: &Value,
    ) -> Vec<PluginAssignment> {
        let owner = plugin();
        let mut assignments = assignments::build(&Owned { plugin: &owner }, Some(revision), placement, &[]);
        for assignment in &mut assignments {
            assignment.status = serde_json::from_value(status.clone()).unwrap();
        }
        assignments
    }

    pub(crate) fn ready() -> Value {
        json!({ "state": "Ready" })
    }
}
