//! The operator's own keys: its CA, its server certificate, and the key of the contents' hash. They are kept in a
//! Secret of its own namespace, and the CA's certificate is published in a ConfigMap.
//!
//! Every replica may issue them: each write names the resource version that it follows, so that of two at once the
//! second fails and reads the first one's keys.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use ring::hmac;
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use tokio::{sync::watch, time::sleep};

use super::certificates::{MakeError, Renewal, Stored};

/// The Secret with the keys, and the ConfigMap with the CA's certificate. The chart installs both empty.
const SECRET: &str = "samovar-operator-keys";
const CONFIG_MAP: &str = "samovar-operator-ca";

/// The interval of checks for due renewals.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The same after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// The current keys. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keys(watch::Receiver<Option<ActiveKeys>>);

struct ActiveKeys {
    /// The Secret's data from which the keys were parsed.
    stored: Stored,
    digest: Arc<hmac::Key>,
    certified: Arc<CertifiedKey>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{kind} `{name}` in namespace {namespace} {source}")]
    Api { kind: &'static str, name: &'static str, namespace: String, source: ApiError },
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error("the operator's certificate is unusable: {0}; empty the Secret `{SECRET}` to have it reissued")]
    Unusable(String),
}

#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("does not exist: the chart installs an empty one, for the operator to fill")]
    Absent,
    #[error("was changed by another operator at the same time")]
    Conflict,
    #[error("could not be read or written: {0}")]
    Other(kube::Error),
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => Self::Absent,
            kube::Error::Api(status) if status.code == 409 => Self::Conflict,
            error => Self::Other(error),
        }
    }
}

impl Keys {
    /// The keys, and the future that issues and renews them, which must run as long as they are used.
    pub(crate) fn maintain(
        client: Client,
        namespace: String,
        hosts: Vec<String>,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = watch::channel(None);
        let maintain = async move {
            let mut logged = String::new();
            loop {
                let pause = match ensure(&client, &namespace, &hosts, &sender).await {
                    Ok(()) => {
                        logged.clear();
                        CHECK_INTERVAL
                    }
                    Err(error) => {
                        // Logged once for each error, since the check is repeated often.
                        if error.to_string() != logged {
                            logged = error.to_string();
                            tracing::warn!(
                                "{logged}; until this is fixed, agents get no contents of ConfigMaps and Secrets"
                            );
                        }
                        RETRY
                    }
                };
                sleep(pause).await;
            }
        };
        (Self(receiver), maintain)
    }

    /// The key of the contents' hash, once there is one.
    pub(super) fn digest(&self) -> Option<Arc<hmac::Key>> {
        self.0.borrow().as_ref().map(|keys| Arc::clone(&keys.digest))
    }

    /// The server certificate, once there is one.
    pub(super) fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().as_ref().map(|keys| Arc::clone(&keys.certified))
    }
}

/// Reads the keys, issues those that are missing or due, and publishes them.
async fn ensure(
    client: &Client,
    namespace: &str,
    hosts: &[String],
    sender: &watch::Sender<Option<ActiveKeys>>,
) -> Result<(), Error> {
    let at = |kind, name| {
        move |error: kube::Error| Error::Api {
            kind,
            name,
            namespace: namespace.to_owned(),
            source: error.into(),
        }
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut secret = secrets.get(SECRET).await.map_err(at("Secret", SECRET))?;
    let before = secret.data.as_ref().and_then(Stored::read);
    let stored = match Stored::renewal(before, hosts, Timestamp::now())? {
        Renewal::Unchanged(stored) => stored,
        Renewal::Renewed(stored) => {
            secret.data = Some(stored.data());
            secrets.replace(SECRET, &PostParams::default(), &secret).await.map_err(at("Secret", SECRET))?;
            tracing::info!("issued a new certificate for the contents server");
            stored
        }
    };
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut shown = config_maps.get(CONFIG_MAP).await.map_err(at("ConfigMap", CONFIG_MAP))?;
    let data = BTreeMap::from([("ca.crt".to_owned(), stored.ca_certificates.clone())]);
    if shown.data.as_ref() != Some(&data) {
        shown.data = Some(data);
        config_maps
            .replace(CONFIG_MAP, &PostParams::default(), &shown)
            .await
            .map_err(at("ConfigMap", CONFIG_MAP))?;
    }
    if sender.borrow().as_ref().is_none_or(|keys| keys.stored != stored) {
        sender.send_replace(Some(ActiveKeys::new(stored)?));
    }
    Ok(())
}

impl ActiveKeys {
    fn new(stored: Stored) -> Result<Self, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Unusable(error.to_string());
        let chain = CertificateDer::from_pem_slice(stored.certificate.as_bytes())
            .map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::from_pem_slice(stored.key.as_bytes()).map_err(|error| unusable(&error))?;
        let key = any_supported_type(&key).map_err(|error| unusable(&error))?;
        Ok(Self {
            digest: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &stored.digest_key)),
            certified: Arc::new(CertifiedKey::new(vec![chain], key)),
            stored,
        })
    }
}
