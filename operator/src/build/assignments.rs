//! Builds the assignments: the newest revision on every placed agent, and the serving one until the newest is ready.

use std::collections::BTreeMap;

use samovar_crds::{AgentRef, PluginAssignment, PluginAssignmentSpec, State, names};
use sha2::{Digest, Sha256};

use super::Owned;
use crate::{
    place::{ChosenNode, Placement},
    revision::Revision,
};

pub(super) fn build(
    owned: &Owned<'_>,
    revision: Option<&Revision>,
    placement: &Placement,
    observed: &[PluginAssignment],
) -> Vec<PluginAssignment> {
    let Some(revision) = revision else { return Vec::new() };
    let mut wanted = BTreeMap::new();
    for node in &placement.nodes {
        for agent in &node.agents {
            let newest = assignment(owned, revision, node, &agent.reference);
            let name = newest.metadata.name.clone();
            let here = || observed.iter().filter(|other| other.spec.agent == agent.reference);
            let newest_serves = here().any(|other| other.metadata.name == name && is_ready(other));
            // A ready revision stays until the newest is ready. One that never was ready is dropped.
            let serving = here().filter(|other| other.metadata.name != name && is_ready(other));
            let before = serving.max_by_key(|other| other.spec.revision_number).filter(|_| !newest_serves);
            if let Some(before) = before {
                wanted.insert(before.metadata.name.clone(), unchanged(owned, before));
            }
            wanted.insert(name, newest);
        }
    }
    for agent in placement.leaving.iter().flat_map(|node| &node.agents) {
        let serving = observed.iter().filter(|other| other.spec.agent == agent.reference && is_ready(other));
        wanted.extend(serving.map(|it| (it.metadata.name.clone(), unchanged(owned, it))));
    }
    wanted.into_values().collect()
}

/// Returns true if the agent serves calls with the assignment.
pub(crate) fn is_ready(assignment: &PluginAssignment) -> bool {
    assignment.status.as_ref().is_some_and(|status| status.state == Some(State::Ready))
}

fn assignment(
    owned: &Owned<'_>,
    revision: &Revision,
    node: &ChosenNode,
    agent: &AgentRef,
) -> PluginAssignment {
    let agent_hash = &hex::encode(Sha256::digest(&agent.pod_uid))[..8];
    // The number is in the name because specs are immutable: a rollback to an old revision needs new objects.
    let name = format!("{}-{}-{agent_hash}", revision.name, revision.number);
    with_metadata(
        owned,
        &name,
        PluginAssignmentSpec {
            node_name: node.name.clone(),
            agent: agent.clone(),
            plugin: owned.plugin.metadata.name.clone().unwrap_or_default(),
            revision: revision.name.clone(),
            revision_number: revision.number,
            contents: revision.data.contents.clone(),
            template: revision.pinned(),
        },
    )
}

/// An observed assignment, as it was built.
fn unchanged(owned: &Owned<'_>, observed: &PluginAssignment) -> PluginAssignment {
    with_metadata(owned, observed.metadata.name.as_deref().unwrap_or_default(), observed.spec.clone())
}

fn with_metadata(owned: &Owned<'_>, name: &str, spec: PluginAssignmentSpec) -> PluginAssignment {
    let mut metadata = owned.metadata(name.to_owned());
    let revision = spec.revision.clone();
    metadata.labels.get_or_insert_default().insert(names::REVISION_LABEL.to_owned(), revision);
    let mut assignment = PluginAssignment::new(name, spec);
    assignment.metadata = metadata;
    assignment
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::fixtures::{assigned, placement, plugin, ready, revision};

    fn built(newest: &Revision, nodes: &[&str], observed: &[PluginAssignment]) -> Vec<(i64, String)> {
        let owner = plugin();
        build(&Owned { plugin: &owner }, Some(newest), &placement(nodes), observed)
            .into_iter()
            .map(|assignment| (assignment.spec.revision_number, assignment.spec.node_name))
            .collect()
    }

    fn on(number: i64, node: &str) -> (i64, String) {
        (number, node.to_owned())
    }

    #[test]
    fn every_placed_agent_gets_the_newest_revision() {
        assert_eq!(built(&revision("text-a", 1), &["a", "bb"], &[]).len(), 2);
    }

    #[test]
    fn the_serving_revision_stays_until_the_newest_is_ready_on_that_agent() {
        let (old, new) = (revision("text-a", 1), revision("text-b", 2));
        let mut observed = assigned(&old, &placement(&["a", "bb"]), &ready());
        assert_eq!(
            built(&new, &["a", "bb"], &observed),
            [on(1, "a"), on(1, "bb"), on(2, "a"), on(2, "bb")]
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
        observed.extend(assigned(&new, &placement(&["a"]), &ready()));
        observed.extend(assigned(&new, &placement(&["bb"]), &json!({ "state": "Failed" })));
        let mut left = built(&new, &["a", "bb"], &observed);
        left.sort();
        assert_eq!(left, [on(1, "bb"), on(2, "a"), on(2, "bb")]);
    }

    #[test]
    fn an_agent_has_at_most_two_revisions() {
        let observed: Vec<_> = [(1, ready()), (2, ready()), (3, json!({ "state": "Failed" }))]
            .into_iter()
            .flat_map(|(number, status)| {
                assigned(&revision(&format!("text-{number}"), number), &placement(&["a"]), &status)
            })
            .collect();
        let mut left = built(&revision("text-4", 4), &["a"], &observed);
        left.sort();
        assert_eq!(left, [on(2, "a"), on(4, "a")]);
    }

    #[test]
    fn a_rollback_makes_new_objects_beside_those_that_serve() {
        let observed = assigned(&revision("text-a", 1), &placement(&["a"]), &ready());
        let mut left = built(&revision("text-a", 3), &["a"], &observed);
        left.sort();
        assert_eq!(left, [on(1, "a"), on(3, "a")]);
    }

    #[test]
    fn a_leaving_agent_keeps_its_revision_and_gets_no_new_one() {
        let owner = plugin();
        let observed = assigned(&revision("text-a", 1), &placement(&["a", "bb"]), &ready());
        let mut place = placement(&["a", "bb"]);
        place.leaving = vec![place.nodes.remove(0)];
        let built = build(&Owned { plugin: &owner }, Some(&revision("text-b", 2)), &place, &observed);
        let mut left: Vec<_> =
            built.iter().map(|it| (it.spec.revision_number, it.spec.node_name.clone())).collect();
        left.sort();
        assert_eq!(left, [on(1, "a"), on(1, "bb"), on(2, "bb")]);
    }

    #[test]
    fn an_agent_that_is_no_longer_placed_has_no_assignment() {
        let observed = assigned(&revision("text-a", 1), &placement(&["gone"]), &ready());
        assert_eq!(built(&revision("text-a", 1), &["a"], &observed), [on(1, "a")]);
    }
}
