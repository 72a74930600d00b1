//! Builds the `EndpointSlices`: the agents that serve calls of the plugin, and those that are its last resort
//! (`docs/decisions/0014`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::{
    core::v1::ObjectReference,
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::ResourceExt as _;
use samovar_crds::{PluginAssignment, names};

use super::{Owned, assignments::is_ready};
use crate::place::Placement;

/// Endpoints in one slice: kube-controller-manager's default.
const MAX_ENDPOINTS: usize = 100;

pub(super) fn build(
    owned: &Owned<'_>,
    placement: &Placement,
    assignments: &[PluginAssignment],
) -> Vec<EndpointSlice> {
    let serving: BTreeSet<_> = assignments
        .iter()
        .filter(|assignment| is_ready(assignment))
        .map(|assignment| &assignment.spec.agent)
        .collect();
    let mut groups: BTreeMap<(&str, i32), Vec<Endpoint>> = BTreeMap::new();
    let chosen = placement.nodes.iter().map(|node| (node, true));
    for (node, stays) in chosen.chain(placement.leaving.iter().map(|node| (node, false))) {
        for agent in node.agents.iter().filter(|agent| serving.contains(&agent.reference)) {
            // Marks the others as terminating: kube-proxy sends calls to those while no endpoint is ready.
            let ready = stays && agent.is_ready;
            let (Some(ip), Some(port)) = (&agent.ip, agent.port) else { continue };
            let family = match ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            groups.entry((family, port)).or_default().push(Endpoint {
                addresses: vec![ip.clone()],
                conditions: Some(EndpointConditions {
                    ready: Some(ready),
                    serving: Some(true),
                    terminating: Some(!ready),
                }),
                node_name: Some(node.name.clone()),
                target_ref: Some(ObjectReference {
                    kind: Some("Pod".to_owned()),
                    name: Some(agent.reference.pod_name.clone()),
                    namespace: Some(agent.namespace.clone()),
                    uid: Some(agent.reference.pod_uid.clone()),
                    ..ObjectReference::default()
                }),
                ..Endpoint::default()
            });
        }
    }
    let slices = groups.into_iter().flat_map(|((family, port), endpoints)| {
        let chunks: Vec<_> = endpoints.chunks(MAX_ENDPOINTS).map(<[_]>::to_vec).collect();
        chunks.into_iter().enumerate().map(move |(at, endpoints)| slice(owned, family, port, at, endpoints))
    });
    slices.collect()
}

fn slice(owned: &Owned<'_>, family: &str, port: i32, at: usize, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let plugin = owned.plugin.name_any();
    let mut metadata = owned.metadata(format!("{plugin}-{}-{port}-{at}", family.to_ascii_lowercase()));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert("kubernetes.io/service-name".to_owned(), plugin);
    // kube-controller-manager leaves slices of other managers alone.
    labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), names::OPERATOR.to_owned());
    EndpointSlice {
        metadata,
        address_type: family.to_owned(),
        endpoints,
        ports: Some(vec![EndpointPort {
            name: Some(names::HTTP_PORT.to_owned()),
            port: Some(port),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fixtures::{assigned, placement, plugin, ready, revision};

    /// Each endpoint's node and its conditions: `ready`, `serving`, `terminating`.
    fn endpoints(placement: &Placement, assignments: &[PluginAssignment]) -> Vec<(String, [bool; 3])> {
        let owner = plugin();
        let slices = build(&Owned { plugin: &owner }, placement, assignments);
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| {
            let EndpointConditions { ready, serving, terminating } = endpoint.conditions.clone().unwrap();
            (endpoint.node_name.clone().unwrap(), [ready, serving, terminating].map(Option::unwrap))
        });
        endpoints.collect()
    }

    const ALWAYS: [bool; 3] = [true, true, false];
    const LAST_RESORT: [bool; 3] = [false, true, true];

    #[test]
    fn serving_agents_are_endpoints_and_unready_ones_a_last_resort() {
        let mut placement = placement(&["a", "bb", "ccc"]);
        let mut assignments = assigned(&revision("text-a", 1), &placement, &ready());
        assignments.retain(|assignment| assignment.spec.node_name != "bb");
        placement.nodes[2].agents[0].is_ready = false;
        assert_eq!(
            endpoints(&placement, &assignments),
            [("a".to_owned(), ALWAYS), ("ccc".to_owned(), LAST_RESORT)]
        );
    }

    #[test]
    fn a_leaving_agent_is_a_last_resort() {
        let mut placement = placement(&["a", "bb"]);
        let assignments = assigned(&revision("text-a", 1), &placement, &ready());
        placement.leaving = vec![placement.nodes.remove(0)];
        assert_eq!(
            endpoints(&placement, &assignments),
            [("bb".to_owned(), ALWAYS), ("a".to_owned(), LAST_RESORT)]
        );
    }

    #[test]
    fn a_slice_is_labelled_with_its_service() {
        let owner = plugin();
        let placement = placement(&["a"]);
        let assignments = assigned(&revision("text-a", 1), &placement, &ready());
        let slices = build(&Owned { plugin: &owner }, &placement, &assignments);
        assert_eq!(slices[0].metadata.labels.as_ref().unwrap()["kubernetes.io/service-name"], "text");
    }

    #[test]
    fn slices_hold_a_hundred_endpoints_of_one_address_family() {
        let owner = plugin();
        let owned = Owned { plugin: &owner };
        let names: Vec<_> = (0..150).map(|at| format!("n{at:03}")).collect();
        let mut placement = placement(&names.iter().map(String::as_str).collect::<Vec<_>>());
        placement.nodes[0].agents[0].ip = Some("fd00::1".to_owned());
        let assignments = assigned(&revision("text-a", 1), &placement, &ready());
        let slices = build(&owned, &placement, &assignments);
        let sizes: Vec<_> =
            slices.iter().map(|slice| (slice.address_type.as_str(), slice.endpoints.len())).collect();
        assert_eq!(sizes, [("IPv4", 100), ("IPv4", 49), ("IPv6", 1)]);
    }
}
