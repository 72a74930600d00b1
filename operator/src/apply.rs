//! Applies the built objects: writes those that differ, and deletes those that are no longer desired.

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

/// The outcome of applying.
pub(crate) struct Applied {
    /// A Service with the plugin's name belongs to somebody else, and was left alone.
    pub(crate) service_is_foreign: bool,
}

/// A request to the API server failed.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {kind}/{name}: {source}")]
pub(crate) struct Error {
    verb: &'static str,
    kind: String,
    name: String,
    source: kube::Error,
}

/// Brings the observed objects to the prepared ones. Each write is complete in itself: after an interruption between
/// any two, the next reconcile continues.
pub(crate) async fn apply(
    client: &Client,
    namespace: &str,
    observed: &Observed,
    prepared: Prepared,
) -> Result<Applied, Error> {
    // Without `..`, so that a new kind of object does not compile until it is applied.
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

    /// Applies an object, unless the observed one has all its fields already.
    async fn ensure<'k, K: Object + Serialize>(
        &self,
        wanted: &K,
        mut observed: impl Iterator<Item = &'k K>,
    ) -> Result<(), Error> {
        let name = wanted.name_any();
        let is_applied = observed.find(|object| object.name_any() == name).is_some_and(|object| {
            let json = |object: &K| serde_json::to_value(object).unwrap_or_default();
            covers(&json(object), &json(wanted))
        });
        if is_applied {
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

    /// Deletes the observed objects that are not wanted. The precondition spares a newer object of the same name.
    async fn prune<'k, K: Object>(
        &self,
        wanted: &[K],
        observed: impl Iterator<Item = &'k K>,
    ) -> Result<(), Error> {
        let wanted: BTreeSet<_> = wanted.iter().map(kube::ResourceExt::name_any).collect();
        for object in observed.filter(|object| !wanted.contains(&object.name_any())) {
            if object.meta().deletion_timestamp.is_some() {
                continue;
            }
            let name = object.name_any();
            let preconditions = Preconditions { uid: object.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
            match self.api::<K>().delete(&name, &params).await {
                Ok(_) => {}
                // Deleted already, or replaced by another of its name: the object is gone.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(source) => {
                    return Err(Error { verb: "delete", kind: K::kind(&()).into_owned(), name, source });
                }
            }
        }
        Ok(())
    }

    /// Returns true if a Service of that name exists and is not the plugin's.
    async fn is_foreign(&self, wanted: &Service) -> Result<bool, Error> {
        let name = wanted.name_any();
        let found = self.api::<Service>().get_opt(&name).await;
        let found =
            found.map_err(|source| Error { verb: "get", kind: "Service".to_owned(), name, source })?;
        let owner = |service: &Service| service.owner_references().first().map(|owner| owner.uid.clone());
        Ok(found.is_some_and(|found| owner(&found) != owner(wanted)))
    }
}

/// Returns true if `observed` has every field of `wanted`. Further fields are the API server's or others'.
fn covers(observed: &Value, wanted: &Value) -> bool {
    match (observed, wanted) {
        // A field without a value is anybody's.
        (_, Value::Null) => true,
        (Value::Object(observed), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| covers(observed.get(key).unwrap_or(&Value::Null), wanted))
        }
        (Value::Array(observed), Value::Array(wanted)) => {
            observed.len() == wanted.len()
                && observed.iter().zip(wanted).all(|(observed, wanted)| covers(observed, wanted))
        }
        (observed, wanted) => observed == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_added_field_is_no_difference_and_a_missing_one_is() {
        let observed =
            json!({ "metadata": { "name": "a", "uid": "1" }, "ports": [{ "port": 80, "nodePort": 1 }] });
        for (wanted, covered) in [
            (json!({ "metadata": { "name": "a" }, "ports": [{ "port": 80 }] }), true),
            (json!({ "ports": [{ "port": 81 }] }), false),
            (json!({ "ports": [] }), false),
            (json!({ "metadata": { "labels": {} } }), false),
            (json!({ "status": null }), true),
        ] {
            assert_eq!(covers(&observed, &wanted), covered, "{wanted}");
        }
    }
}
