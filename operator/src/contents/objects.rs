//! Reads the ConfigMaps and Secrets that a policy names, from the plugin's own namespace alone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use samovar_crds::{Data, LocalObject, ObjectKind, config_map_data, secret_data};

/// The values of those named objects that exist. They are read from the API server, and never cached.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    named: Vec<LocalObject>,
) -> kube::Result<BTreeMap<LocalObject, Data>> {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut data_of = BTreeMap::new();
    for object in named {
        let data = match object.kind {
            ObjectKind::ConfigMap => config_maps.get_opt(&object.name).await?.map(config_map_data),
            ObjectKind::Secret => secrets.get_opt(&object.name).await?.map(secret_data),
        };
        if let Some(data) = data {
            data_of.insert(object, data);
        }
    }
    Ok(data_of)
}
