//! The status of a plugin: its conditions, and messages that say what to fix.

use std::collections::BTreeMap;

use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use samovar_crds::{
    ConditionType, NodeCounts, PluginAssignment, PluginAssignmentStatus, Reason, State, WasmPlugin,
    WasmPluginStatus, names, set_condition,
};
use serde_json::json;

use crate::{
    apply::Applied,
    build::is_ready,
    place::{ChosenNode, Placement},
    resolve::{Outcome, Resolution},
    revision::Revision,
};

/// The status could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the status: {0}")]
pub(crate) struct Error(#[from] kube::Error);

/// Writes the status if it differs.
pub(crate) async fn write(
    client: &Client,
    plugin: &WasmPlugin,
    status: &WasmPluginStatus,
) -> Result<(), Error> {
    if plugin.status.as_ref() == Some(status) {
        return Ok(());
    }
    let api: Api<WasmPlugin> = Api::namespaced(client.clone(), &plugin.namespace().unwrap_or_default());
    let patch = json!({ "apiVersion": samovar_crds::API_VERSION, "kind": "WasmPlugin", "status": status });
    let params = PatchParams::apply(names::OPERATOR).force();
    api.patch_status(&plugin.name_any(), &params, &Patch::Apply(&patch)).await?;
    Ok(())
}

/// The states of the chosen nodes, counted.
struct Tally {
    counts: NodeCounts,
    /// The failures by reason: the number of nodes, and the first node with its message.
    failures: BTreeMap<&'static str, (Reason, usize, String, String)>,
    /// Chosen nodes whose agents are not ready.
    unready: Vec<String>,
    functions: Vec<samovar_crds::FunctionStatus>,
}

/// Derives the status from the decisions and the agents' reports. Pure.
pub(crate) fn status(
    plugin: &WasmPlugin,
    resolution: &Resolution,
    placement: &Placement,
    assignments: &[PluginAssignment],
    applied: &Applied,
) -> WasmPluginStatus {
    let generation = plugin.metadata.generation;
    let before = plugin.status.clone().unwrap_or_default();
    let tally = tally(resolution.revision.as_ref(), placement, assignments);
    let ready = ready(plugin, resolution, placement, &tally, applied);
    let progressing = match ready.reason {
        Reason::RolloutInProgress | Reason::AgentUnavailable => (Some(true), Reason::RolloutInProgress),
        Reason::Paused => (None, Reason::Paused),
        reason => (Some(false), reason),
    };
    let degraded = match &resolution.outcome {
        Outcome::Failed(..) => Some(true),
        _ => Some(tally.counts.failed > 0 || !tally.unready.is_empty() || applied.service_is_foreign),
    };
    let resolved = resolved(resolution);
    let mut conditions = before.conditions;
    let mut set = |type_, status, reason, message: &str| {
        set_condition(&mut conditions, type_, status, reason, message, generation);
    };
    set(ConditionType::Ready, Some(ready.is_true), ready.reason, &ready.message);
    set(ConditionType::Resolved, resolved.0, resolved.1, &resolved.2);
    set(ConditionType::Progressing, progressing.0, progressing.1, &ready.message);
    set(ConditionType::Degraded, degraded, ready.reason, &ready.message);
    let namespace = plugin.namespace().unwrap_or_default();
    WasmPluginStatus {
        observed_generation: generation,
        resolved_image: resolution.revision.as_ref().map(|revision| revision.data.image.clone()),
        revision: resolution.revision.as_ref().map(|revision| revision.name.clone()),
        url: (!applied.service_is_foreign).then(|| names::url(&namespace, &plugin.name_any())),
        // Keeps the known functions while the next revision is rolled out.
        functions: if tally.functions.is_empty() { before.functions } else { tally.functions },
        nodes: Some(tally.counts),
        conditions,
    }
}

fn tally(revision: Option<&Revision>, placement: &Placement, assignments: &[PluginAssignment]) -> Tally {
    let mut tally = Tally {
        counts: NodeCounts::default(),
        failures: BTreeMap::new(),
        unready: Vec::new(),
        functions: Vec::new(),
    };
    for node in &placement.nodes {
        let on_agents = |ready: bool| {
            let agents = node.agents.iter().filter(move |agent| agent.is_ready || !ready);
            agents.flat_map(|agent| assignments.iter().filter(|other| other.spec.agent == agent.reference))
        };
        let is_newest = |assignment: &&PluginAssignment| {
            revision.is_some_and(|revision| {
                (&assignment.spec.revision, assignment.spec.revision_number)
                    == (&revision.name, revision.number)
            })
        };
        let newest_ready = on_agents(true).filter(is_newest).find(|assignment| is_ready(assignment));
        tally.counts.ready += i32::from(on_agents(true).any(is_ready));
        if let Some(newest) = newest_ready {
            tally.counts.updated += 1;
            if tally.functions.is_empty() {
                tally.functions =
                    newest.status.as_ref().map(|status| status.functions.clone()).unwrap_or_default();
            }
        } else if !node.agents.iter().any(|agent| agent.is_ready) {
            tally.unready.push(node.name.clone());
        } else if let Some(failed) = on_agents(true).filter(is_newest).find_map(failure) {
            tally.fail(node, failed);
        }
    }
    tally.counts.desired = i32::try_from(placement.desired).unwrap_or(i32::MAX);
    tally.counts.summary = format!("{}/{}", tally.counts.updated, tally.counts.desired);
    tally
}

impl Tally {
    fn fail(&mut self, node: &ChosenNode, (reason, message): (Reason, String)) {
        self.counts.failed += 1;
        let failure = self.failures.entry(reason.as_str()).or_insert((reason, 0, node.name.clone(), message));
        failure.1 += 1;
    }
}

/// The reason and message with which the agent failed an assignment.
fn failure(assignment: &PluginAssignment) -> Option<(Reason, String)> {
    let PluginAssignmentStatus { state, conditions, .. } = assignment.status.as_ref()?;
    if *state != Some(State::Failed) {
        return None;
    }
    let ready = conditions.iter().find(|condition| condition.type_ == ConditionType::Ready.as_str())?;
    Some((Reason::parse(&ready.reason)?, ready.message.clone()))
}

struct Ready {
    is_true: bool,
    reason: Reason,
    message: String,
}

/// `Ready`: true if all chosen nodes serve the spec's revision, else with the first thing to fix.
fn ready(
    plugin: &WasmPlugin,
    resolution: &Resolution,
    placement: &Placement,
    tally: &Tally,
    applied: &Applied,
) -> Ready {
    let NodeCounts { desired, updated, ready: serving, .. } = tally.counts;
    let not_ready = |reason, message: String| Ready {
        is_true: false,
        reason,
        message: message + &still_serving(resolution, tally),
    };
    match &resolution.outcome {
        Outcome::Failed(reason, message) => return not_ready(*reason, message.clone()),
        Outcome::Paused => {
            return not_ready(
                Reason::Paused,
                "the new revision is held back while spec.paused is true".to_owned(),
            );
        }
        Outcome::Current => {}
    }
    if applied.service_is_foreign {
        let name = plugin.name_any();
        return not_ready(
            Reason::NameConflict,
            format!("a Service `{name}` exists that is not this plugin's: rename one of them"),
        );
    }
    if desired == 0 && plugin.spec.replicas == Some(0) {
        return not_ready(Reason::ScaledToZero, "spec.replicas is 0: no node serves the plugin".to_owned());
    }
    if placement.nodes.is_empty() {
        let message = "no Ready node with an agent matches spec.nodeSelector and spec.tolerations";
        return not_ready(Reason::NoMatchingNode, message.to_owned());
    }
    if let Some((reason, nodes, node, message)) = tally.failures.values().max_by_key(|failure| failure.1) {
        let more = if *nodes > 1 { format!(" and {} more", nodes - 1) } else { String::new() };
        return not_ready(*reason, format!("on node {node}{more}: {message}"));
    }
    if let Some(node) = tally.unready.first() {
        let more = if tally.unready.len() > 1 {
            format!(" and {} more", tally.unready.len() - 1)
        } else {
            String::new()
        };
        return not_ready(
            Reason::AgentUnavailable,
            format!("the agent on node {node}{more} is not ready; check its Pod"),
        );
    }
    if placement.nodes.len() < placement.desired {
        let found = placement.nodes.len();
        return not_ready(
            Reason::NoMatchingNode,
            format!("{found} nodes match, but spec.replicas is {desired}"),
        );
    }
    if updated < desired {
        let message = format!("{updated} of {desired} nodes serve the newest revision");
        return Ready { is_true: false, reason: Reason::RolloutInProgress, message };
    }
    Ready {
        is_true: true,
        reason: Reason::AllNodesReady,
        message: format!("{serving} of {desired} nodes serve calls"),
    }
}

/// The clause about the revision that serves despite a failure.
fn still_serving(resolution: &Resolution, tally: &Tally) -> String {
    match (&resolution.revision, tally.counts.ready) {
        (_, 0) | (None, _) => String::new(),
        (Some(revision), nodes) if tally.counts.updated == nodes => {
            format!("; revision {} goes on serving on {nodes} nodes", revision.name)
        }
        (Some(_), nodes) => format!("; {nodes} nodes go on serving"),
    }
}

fn resolved(resolution: &Resolution) -> (Option<bool>, Reason, String) {
    match (&resolution.outcome, &resolution.revision) {
        (Outcome::Failed(reason, message), _) => (Some(false), *reason, message.clone()),
        (Outcome::Paused, _) => {
            (None, Reason::Paused, "spec.image is not resolved while spec.paused is true".to_owned())
        }
        (Outcome::Current, Some(revision)) => {
            (Some(true), Reason::ImageResolved, format!("the image is resolved to {}", revision.data.image))
        }
        (Outcome::Current, None) => {
            (None, Reason::RolloutInProgress, "the image is being resolved".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fixtures::{assigned, placement, plugin, ready as serving, revision};

    fn of(
        resolution: &Resolution,
        nodes: &[&str],
        assignments: &[PluginAssignment],
    ) -> (String, String, String) {
        let status = status(
            &plugin(),
            resolution,
            &placement(nodes),
            assignments,
            &Applied { service_is_foreign: false },
        );
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        (status.nodes.unwrap().summary, ready.reason.clone(), ready.message.clone())
    }

    fn current(number: i64) -> Resolution {
        Resolution {
            revision: Some(revision(&format!("text-{number}"), number)),
            outcome: Outcome::Current,
            requeue_after: None,
        }
    }

    #[test]
    fn ready_means_that_all_chosen_nodes_serve_the_newest_revision() {
        let on = |number, nodes: &[&str]| {
            assigned(&revision(&format!("text-{number}"), number), &placement(nodes), &serving())
        };
        let all = on(1, &["a", "bb"]);
        assert_eq!(of(&current(1), &["a", "bb"], &all).1, "AllNodesReady");
        let (summary, reason, _) = of(&current(2), &["a", "bb"], &all);
        assert_eq!((summary.as_str(), reason.as_str()), ("0/2", "RolloutInProgress"));
        let mut mixed = on(2, &["a"]);
        mixed.extend(on(1, &["bb"]));
        assert_eq!(of(&current(2), &["a", "bb"], &mixed).0, "1/2");
    }

    #[test]
    fn a_failure_names_the_node_the_agents_message_and_the_serving_nodes() {
        let failed = json!({ "state": "Failed", "conditions": [{
            "type": "Ready", "status": "False", "reason": "ExportNotFound", "message": "no export `x`",
            "lastTransitionTime": "2026-01-01T00:00:00Z"
        }] });
        let mut assignments = assigned(&revision("text-2", 2), &placement(&["a", "bb"]), &failed);
        assignments.extend(assigned(&revision("text-1", 1), &placement(&["a", "bb"]), &serving()));
        let (summary, reason, message) = of(&current(2), &["a", "bb"], &assignments);
        assert_eq!((summary.as_str(), reason.as_str()), ("0/2", "ExportNotFound"));
        assert_eq!(message, "on node a and 1 more: no export `x`; 2 nodes go on serving");
    }

    #[test]
    fn a_missing_image_leaves_the_previous_revision_serving() {
        let outcome = Outcome::Failed(Reason::ImageNotFound, "it is not there".to_owned());
        let resolution = Resolution { outcome, ..current(1) };
        let assignments = assigned(&revision("text-1", 1), &placement(&["a"]), &serving());
        let (summary, reason, message) = of(&resolution, &["a"], &assignments);
        assert_eq!((summary.as_str(), reason.as_str()), ("1/1", "ImageNotFound"));
        assert_eq!(message, "it is not there; revision text-1 goes on serving on 1 nodes");
    }

    #[test]
    fn no_matching_node_and_an_unready_agent_have_reasons_of_their_own() {
        assert_eq!(of(&current(1), &[], &[]).1, "NoMatchingNode");
        let mut unready = placement(&["a"]);
        unready.nodes[0].agents[0].is_ready = false;
        let status = status(&plugin(), &current(1), &unready, &[], &Applied { service_is_foreign: false });
        assert_eq!(status.conditions[0].reason, "AgentUnavailable");
    }

    #[test]
    fn an_unchanged_state_leaves_the_status_unchanged() {
        let assignments = assigned(&revision("text-1", 1), &placement(&["a"]), &serving());
        let applied = Applied { service_is_foreign: false };
        let first = status(&plugin(), &current(1), &placement(&["a"]), &assignments, &applied);
        let unchanged = WasmPlugin { status: Some(first.clone()), ..plugin() };
        assert_eq!(status(&unchanged, &current(1), &placement(&["a"]), &assignments, &applied), first);
    }
}
