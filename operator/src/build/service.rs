//! Builds the Service: a DNS name and an address for the plugin. It has no selector, since `endpoints.rs` builds its
//! `EndpointSlices`.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt as _;
use samovar_crds::names;

use super::Owned;

/// The Service's port.
const PORT: i32 = 80;

pub(super) fn build(owned: &Owned<'_>) -> Service {
    Service {
        metadata: owned.metadata(owned.plugin.name_any()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(names::HTTP_PORT.to_owned()),
                port: PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(names::HTTP_PORT.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
