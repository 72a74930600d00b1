//! Places a plugin: chooses its nodes, and finds their agents. Pure.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::ResourceExt as _;
use samovar_crds::{AgentRef, WasmPlugin, names};
use sha2::{Digest, Sha256};

/// The nodes and agents of a plugin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The chosen nodes, sorted by name.
    pub(crate) nodes: Vec<ChosenNode>,
    /// The number of nodes to choose: `replicas`, or all that match.
    pub(crate) desired: usize,
    /// Terminating agents, and those of nodes that would match if they were Ready, by node. They get no new revision,
    /// and serve the one that they have until they are gone.
    pub(crate) leaving: Vec<ChosenNode>,
}

/// A node that should serve a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChosenNode {
    pub(crate) name: String,
    /// Its agents: one, or two while the `DaemonSet` surges.
    pub(crate) agents: Vec<Agent>,
}

/// One agent, as its Pod describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) reference: AgentRef,
    pub(crate) namespace: String,
    pub(crate) is_ready: bool,
    pub(crate) ip: Option<String>,
    pub(crate) port: Option<i32>,
}

/// The part of a node that placement depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeFacts {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    is_ready: bool,
    is_cordoned: bool,
}

/// Taints that repeat the node's conditions and `unschedulable`, which placement reads itself.
const CONDITION_TAINTS: [&str; 3] =
    ["node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Chooses nodes. A node must be Ready, match the node selector, have no taint that the plugin does not tolerate, and
/// have an agent. A cordoned node keeps its plugins and gets no new ones, as with Pods. So does a node that is not
/// Ready, and it does not count as chosen: `docs/decisions/0014`. If more nodes match than `replicas`, those with a
/// ready agent come first, then rendezvous hashing decides, so that few plugins move when a node joins or leaves.
pub(crate) fn place(
    plugin: &WasmPlugin,
    nodes: &[Arc<Node>],
    agents: &[Arc<Pod>],
    carries: impl Fn(&str) -> bool,
) -> Placement {
    let mut by_node: BTreeMap<String, Vec<Agent>> = BTreeMap::new();
    let mut leaving = Vec::new();
    for pod in agents {
        let Some((node, agent)) = agent(pod) else { continue };
        if pod.metadata.deletion_timestamp.is_some() {
            leaving.push(ChosenNode { name: node, agents: vec![agent] });
        } else {
            by_node.entry(node).or_default().push(agent);
        }
    }
    let mut chosen = Vec::new();
    for node in nodes {
        let (name, facts) = (node.name_any(), NodeFacts::of(node));
        let matches = (!facts.is_cordoned || carries(&name))
            && facts.has_labels(&plugin.spec.node_selector)
            && facts.is_tolerated(&plugin.spec.tolerations);
        let Some(mut agents) = by_node.remove(&name).filter(|_| matches) else { continue };
        agents.sort_by(|a, b| a.reference.cmp(&b.reference));
        let list = if facts.is_ready { &mut chosen } else { &mut leaving };
        list.push(ChosenNode { name, agents });
    }
    let desired =
        plugin.spec.replicas.map_or(chosen.len(), |replicas| usize::try_from(replicas).unwrap_or(0));
    if desired < chosen.len() {
        let identity = format!("{}/{}", plugin.namespace().unwrap_or_default(), plugin.name_any());
        chosen.sort_by_cached_key(|node| {
            let has_ready_agent = node.agents.iter().any(|agent| agent.is_ready);
            (!has_ready_agent, std::cmp::Reverse(weight(&identity, &node.name)))
        });
        chosen.truncate(desired);
    }
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    if plugin.spec.replicas == Some(0) {
        leaving.clear();
    }
    Placement { nodes: chosen, desired, leaving }
}

/// The weight of a node for a plugin: [rendezvous hashing](https://doi.org/10.1109/90.663936).
fn weight(plugin: &str, node: &str) -> [u8; 32] {
    let mut sha = Sha256::new_with_prefix(plugin);
    sha.update([0]);
    sha.update(node);
    sha.finalize().into()
}

impl NodeFacts {
    pub(crate) fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let conditions =
            node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        Self {
            labels: node.labels().clone(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            is_ready: conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            is_cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        }
    }

    fn has_labels(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    fn is_tolerated(&self, tolerations: &[Toleration]) -> bool {
        self.taints.iter().all(|taint| {
            taint.effect == "PreferNoSchedule"
                || CONDITION_TAINTS.contains(&taint.key.as_str())
                || tolerations.iter().any(|toleration| tolerates(toleration, taint))
        })
    }
}

/// Matches as the scheduler does: `Exists` without a key tolerates every taint, and no effect means every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    (key == taint.key || key.is_empty() && exists)
        && (effect.is_empty() || effect == taint.effect)
        && (exists
            || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
}

/// The agent in a Pod, and its node; `None` for a Pod that is not scheduled yet, or has ended.
pub(crate) fn agent(pod: &Pod) -> Option<(String, Agent)> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ports = spec.containers.iter().flat_map(|container| container.ports.as_deref().unwrap_or_default());
    let agent = Agent {
        reference: AgentRef { pod_name: pod.name_any(), pod_uid: pod.uid()? },
        namespace: pod.namespace()?,
        is_ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        ip: status.pod_ip.clone().filter(|ip| !ip.is_empty()),
        port: ports
            .filter(|port| port.name.as_deref() == Some(names::HTTP_PORT))
            .map(|port| port.container_port)
            .next(),
    };
    Some((spec.node_name.clone()?, agent))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, patch: Value) -> Arc<Node> {
        let mut node = json!({
            "metadata": { "name": name, "labels": { "disk": "ssd" } }, "spec": {},
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] }
        });
        merge(&mut node, patch);
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn merge(into: &mut Value, patch: Value) {
        match (into, patch) {
            (Value::Object(into), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, patch) => *into = patch,
        }
    }

    fn pod(node: &str, name: &str, ready: bool) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": name, "namespace": "samovar-system", "uid": name },
            "spec": { "nodeName": node, "containers": [{ "name": "agent", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            "status": { "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] }
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn plugin(name: &str, spec: Value) -> WasmPlugin {
        let mut all = json!({ "image": "a" });
        merge(&mut all, spec);
        serde_json::from_value(json!({
            "apiVersion": "samovar.dev/v1alpha1", "kind": "WasmPlugin",
            "metadata": { "name": name, "namespace": "demo" }, "spec": all
        }))
        .unwrap()
    }

    fn chosen(spec: Value, nodes: &[Arc<Node>]) -> Vec<String> {
        let agents: Vec<_> = nodes.iter().map(|node| pod(&node.name_any(), &node.name_any(), true)).collect();
        let placement = place(&plugin("text", spec), nodes, &agents, |name| name == "carries");
        placement.nodes.into_iter().map(|node| node.name).collect()
    }

    #[test]
    fn a_node_must_match_be_ready_and_tolerated() {
        let tainted =
            json!({ "spec": { "taints": [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] } });
        let nodes = [
            node("plain", json!({})),
            node("slow", json!({ "metadata": { "labels": { "disk": "hdd" } } })),
            node("tainted", tainted),
            node("down", json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } })),
            node("cordoned", json!({ "spec": { "unschedulable": true } })),
            node("carries", json!({ "spec": { "unschedulable": true } })),
            node(
                "rather-not",
                json!({ "spec": { "taints": [{ "key": "x", "effect": "PreferNoSchedule" }] } }),
            ),
        ];
        let ssd = json!({ "nodeSelector": { "disk": "ssd" } });
        assert_eq!(chosen(ssd, &nodes), ["carries", "plain", "rather-not"]);
        for toleration in [
            json!({ "key": "gpu", "value": "yes" }),
            json!({ "key": "gpu", "operator": "Exists", "effect": "NoSchedule" }),
            json!({ "operator": "Exists" }),
        ] {
            let spec = json!({ "tolerations": [toleration] });
            assert!(chosen(spec.clone(), &nodes).contains(&"tainted".to_owned()), "{spec}");
        }
        for toleration in [
            json!({ "key": "gpu", "value": "no" }),
            json!({ "key": "gpu", "operator": "Exists", "effect": "NoExecute" }),
        ] {
            let spec = json!({ "tolerations": [toleration] });
            assert!(!chosen(spec.clone(), &nodes).contains(&"tainted".to_owned()), "{spec}");
        }
    }

    #[test]
    fn replicas_prefer_nodes_with_a_ready_agent_and_two_agents_are_one_node() {
        let nodes: Vec<_> = ["a", "b", "c"].map(|name| node(name, json!({}))).into();
        let agents =
            [pod("a", "a1", false), pod("b", "b1", true), pod("b", "b2", true), pod("c", "c1", true)];
        let placement = place(&plugin("text", json!({ "replicas": 2 })), &nodes, &agents, |_| false);
        let names: Vec<_> =
            placement.nodes.iter().map(|node| (node.name.as_str(), node.agents.len())).collect();
        assert_eq!(names, [("b", 2), ("c", 1)]);
        let placement = place(&plugin("text", json!({ "replicas": 5 })), &nodes, &agents, |_| false);
        assert_eq!((placement.nodes.len(), placement.desired), (3, 5));
        let placement = place(&plugin("text", json!({ "replicas": 0 })), &nodes, &agents, |_| false);
        assert_eq!((placement.nodes.len(), placement.desired), (0, 0));
    }

    #[test]
    fn a_terminating_agent_makes_no_node_eligible_and_is_leaving() {
        let nodes: Vec<_> = ["a", "b"].map(|name| node(name, json!({}))).into();
        let mut old = (*pod("a", "old", true)).clone();
        old.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let agents = [Arc::new(old), pod("b", "b1", true)];
        let placement = place(&plugin("text", json!({})), &nodes, &agents, |_| true);
        let names = |nodes: &[ChosenNode]| nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&placement.nodes), names(&placement.leaving)),
            (vec!["b".into()], vec!["a".into()])
        );
        let none = place(&plugin("text", json!({ "replicas": 0 })), &nodes, &agents, |_| true);
        assert!(none.leaving.is_empty());
    }

    #[test]
    fn nodes_that_are_not_ready_do_not_count_and_their_agents_are_leaving() {
        let down = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
        let nodes = [node("a", down.clone()), node("b", down)];
        let agents = [pod("a", "a1", false), pod("b", "b1", true)];
        let placement = place(&plugin("text", json!({})), &nodes, &agents, |_| true);
        let leaving: Vec<_> = placement.leaving.iter().map(|node| node.name.as_str()).collect();
        assert_eq!((placement.nodes.len(), placement.desired, leaving), (0, 0, vec!["a", "b"]));
        let elsewhere = json!({ "nodeSelector": { "disk": "hdd" } });
        assert!(place(&plugin("text", elsewhere), &nodes, &agents, |_| true).leaving.is_empty());
    }

    #[test]
    fn few_plugins_move_when_a_node_joins() {
        let nodes =
            |count: usize| (0..count).map(|at| node(&format!("n{at}"), json!({}))).collect::<Vec<_>>();
        let plugins: Vec<_> =
            (0..200).map(|at| plugin(&format!("p{at}"), json!({ "replicas": 2 }))).collect();
        let places = |nodes: &[Arc<Node>]| {
            let agents: Vec<_> =
                nodes.iter().map(|node| pod(&node.name_any(), &node.name_any(), true)).collect();
            let pairs = plugins.iter().flat_map(|plugin| {
                let placement = place(plugin, nodes, &agents, |_| false);
                placement.nodes.into_iter().map(|node| (plugin.name_any(), node.name)).collect::<Vec<_>>()
            });
            pairs.collect::<BTreeSet<_>>()
        };
        let (before, after) = (places(&nodes(10)), places(&nodes(11)));
        let moved = before.difference(&after).count();
        // The eleventh node takes its share of 400 places, and nothing else moves.
        assert!((15..=60).contains(&moved), "{moved} of 400 places moved");
        assert!(after.difference(&before).all(|(_, node)| node == "n10"));
    }
}
