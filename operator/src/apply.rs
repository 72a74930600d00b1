//! Applying: writes what differs, and removes what is no longer wanted.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use samovar_crds::names;
use serde::Serialize;
use serde_json::Value;

use crate::{
    build::Prepared,
    observe::{Object, Observed},
};

/// What came of applying.
pub(crate) struct Applied {
    /// A Service of the plugin's name is somebody else's, and was left alone.
    pub(crate) service_is_foreign: bool,
}

/// The API server did not take a write.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {kind}/{name}: {source}")]
pub(crate) struct Error {
    verb: &'static str,
    kind: String,
    name: String,
    source: kube::Error,
}

/// Makes what there is equal to what was prepared. Each write is whole in itself: stopped between any two, the
/// next run goes on from there.
pub(crate) async fn apply(
    client: &Client,
    namespace: &str,
    observed: &Observed,
    prepared: Prepared,
) -> Result<Applied, Error> {
    // Without `..`: another kind of object does not compile until it is applied.
    let Prepared { revisions, service, assignments, slices } = prepared;
    let applier = Applier { client, namespace };
    for revision in &revisions {
        applier.ensure(revision, observed.revisions.iter().map(AsRef::as_ref)).await?;
    }
    let service_is_foreign = observed.service.is_none() && applier.is_foreign(&service).await?;
    if !service_is_foreign {
        applier.ensure(&service, observed.service.iter().map(AsRef::as_ref)).await?;
    }
    for assignment in &assignments {
        applier.ensure(assignment, observed.assignments.iter()).await?;
    }
    let slices = if service_is_foreign { Vec::new() } else { slices };
    for slice in &slices {
        applier.ensure(slice, observed.slices.iter().map(AsRef::as_ref)).await?;
    }
    applier.prune(&slices, observed.slices.iter().map(AsRef::as_ref)).await?;
    applier.prune(&assignments, observed.assignments.iter()).await?;
    applier.prune(&revisions, observed.revisions.iter().map(AsRef::as_ref)).await?;
    Ok(Applied { service_is_foreign })
}

struct Applier<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Applier<'_> {
    fn api<K: Object>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// Writes an object, unless what is there is so already.
    async fn ensure<'k, K: Object + Serialize>(
        &self,
        wanted: &K,
        mut there: impl Iterator<Item = &'k K>,
    ) -> Result<(), Error> {
        let name = wanted.name_any();
        let is_so = there.find(|object| object.name_any() == name).is_some_and(|object| {
            let json = |object: &K| serde_json::to_value(object).unwrap_or_default();
            covers(&json(object), &json(wanted))
        });
        if is_so {
            return Ok(());
        }
        let params = PatchParams::apply(names::OPERATOR).force();
        let written = self.api::<K>().patch(&name, &params, &Patch::Apply(wanted)).await;
        written.map(drop).map_err(|source| Error {
            verb: "apply",
            kind: K::kind(&()).into_owned(),
            name,
            source,
        })
    }

    /// Deletes what is there and not wanted: that very object, not one of its name that came since.
    async fn prune<'k, K: Object>(
        &self,
        wanted: &[K],
        there: impl Iterator<Item = &'k K>,
    ) -> Result<(), Error> {
        let wanted: BTreeSet<_> = wanted.iter().map(kube::ResourceExt::name_any).collect();
        for object in there.filter(|object| !wanted.contains(&object.name_any())) {
            if object.meta().deletion_timestamp.is_some() {
                continue;
            }
            let name = object.name_any();
            let preconditions = Preconditions { uid: object.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
            match self.api::<K>().delete(&name, &params).await {
                Ok(_) => {}
                // Gone already, or another of that name: either way, what was to go is gone.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(source) => {
                    return Err(Error { verb: "delete", kind: K::kind(&()).into_owned(), name, source });
                }
            }
        }
        Ok(())
    }

    /// Whether a Service of that name is there and is not the plugin's.
    async fn is_foreign(&self, wanted: &Service) -> Result<bool, Error> {
        let name = wanted.name_any();
        let there = self.api::<Service>().get_opt(&name).await;
        let there =
            there.map_err(|source| Error { verb: "get", kind: "Service".to_owned(), name, source })?;
        let owner = |service: &Service| service.owner_references().first().map(|owner| owner.uid.clone());
        Ok(there.is_some_and(|there| owner(&there) != owner(wanted)))
    }
}

/// Whether `there` has everything that `wanted` says; what the API server added is its own.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        // What is not said is anybody's.
        (_, Value::Null) => true,
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| covers(there.get(key).unwrap_or(&Value::Null), wanted))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len()
                && there.iter().zip(wanted).all(|(there, wanted)| covers(there, wanted))
        }
        (there, wanted) => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_added_is_no_difference_and_what_is_missing_is_one() {
        let there =
            json!({ "metadata": { "name": "a", "uid": "1" }, "ports": [{ "port": 80, "nodePort": 1 }] });
        for (wanted, covered) in [
            (json!({ "metadata": { "name": "a" }, "ports": [{ "port": 80 }] }), true),
            (json!({ "ports": [{ "port": 81 }] }), false),
            (json!({ "ports": [] }), false),
            (json!({ "metadata": { "labels": {} } }), false),
            (json!({ "status": null }), true),
        ] {
            assert_eq!(covers(&there, &wanted), covered, "{wanted}");
        }
    }
}
