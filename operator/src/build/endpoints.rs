//! `EndpointSlices`: the agents that answer calls of the plugin.

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

/// Endpoints in one slice: the control plane's own default.
const EACH: usize = 100;

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
    // Those that leave too: while no other is ready, kube-proxy sends calls to them.
    for node in placement.nodes.iter().chain(&placement.leaving) {
        for agent in node.agents.iter().filter(|agent| agent.is_ready && serving.contains(&agent.reference)) {
            let (Some(ip), Some(port)) = (&agent.ip, agent.port) else { continue };
            let family = match ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            groups.entry((family, port)).or_default().push(Endpoint {
                addresses: vec![ip.clone()],
                conditions: Some(EndpointConditions {
                    ready: Some(!agent.is_leaving),
                    serving: Some(true),
                    terminating: Some(agent.is_leaving),
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
        let chunks: Vec<_> = endpoints.chunks(EACH).map(<[_]>::to_vec).collect();
        chunks.into_iter().enumerate().map(move |(at, endpoints)| slice(owned, family, port, at, endpoints))
    });
    slices.collect()
}

fn slice(owned: &Owned<'_>, family: &str, port: i32, at: usize, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let plugin = owned.plugin.name_any();
    let mut metadata = owned.metadata(format!("{plugin}-{}-{port}-{at}", family.to_ascii_lowercase()));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert("kubernetes.io/service-name".to_owned(), plugin);
    // The control plane's own controller leaves slices of other managers alone.
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

    #[test]
    fn only_ready_agents_that_serve_are_endpoints() {
        let owner = plugin();
        let owned = Owned { plugin: &owner };
        let mut placement = placement(&["a", "bb", "ccc"]);
        let mut assignments = assigned(&revision("text-a", 1), &placement, &ready());
        assignments.retain(|assignment| assignment.spec.node_name != "bb");
        placement.nodes[2].agents[0].is_ready = false;
        let slices = build(&owned, &placement, &assignments);
        let nodes: Vec<_> = slices
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| endpoint.node_name.clone())
            .collect();
        assert_eq!(nodes, [Some("a".to_owned())]);
        assert_eq!(slices[0].metadata.labels.as_ref().unwrap()["kubernetes.io/service-name"], "text");
    }

    #[test]
    fn an_agent_that_leaves_serves_and_is_not_ready() {
        let owner = plugin();
        let mut placement = placement(&["a", "bb"]);
        let assignments = assigned(&revision("text-a", 1), &placement, &ready());
        placement.leaving = vec![placement.nodes.remove(0)];
        placement.leaving[0].agents[0].is_leaving = true;
        let slices = build(&Owned { plugin: &owner }, &placement, &assignments);
        let conditions: Vec<_> = slices[0]
            .endpoints
            .iter()
            .map(|endpoint| endpoint.conditions.clone().unwrap())
            .map(|conditions| (conditions.ready, conditions.serving, conditions.terminating))
            .collect();
        assert_eq!(
            conditions,
            [(Some(true), Some(true), Some(false)), (Some(false), Some(true), Some(true))]
        );
    }

    #[test]
    fn a_slice_holds_a_hundred_and_families_are_apart() {
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
