//! The operator's own keys: its authority and certificate, and what it hashes contents with. Made and renewed here,
//! kept in a Secret of its own namespace, and its authority shown in a ConfigMap.
//!
//! Every replica may make them: each write names the version that it follows, so that of two the second finds what the
//! first made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    jiff::{SignedDuration, Timestamp, tz::TimeZone},
};
use kube::{Api, Client, api::PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use ring::{hmac, rand::SecureRandom as _};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

/// The Secret with the keys, and the ConfigMap with the authority's certificate: empty ones are installed.
const SECRET: &str = "samovar-operator-keys";
const CONFIG_MAP: &str = "samovar-operator-ca";

/// How often they are looked at.
const EVERY: Duration = Duration::from_secs(30);
/// The same while they are not to be had.
const RETRY: Duration = Duration::from_secs(2);
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// How many days a certificate is valid, and how many before that it is renewed.
const SERVING: (i32, i32) = (90, 30);
/// The same of the authority. Agents see a new one a minute late, and ask again until then.
const AUTHORITY: (i32, i32) = (3650, 365);

/// The keys as they are now. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keys(watch::Receiver<Option<Held>>);

struct Held {
    /// What they were read from.
    stored: Stored,
    digest: Arc<hmac::Key>,
    certified: Arc<CertifiedKey>,
}

/// What the Secret holds.
#[derive(Clone, PartialEq)]
struct Stored {
    digest_key: Vec<u8>,
    /// The newest authority first; the one before it is trusted too.
    ca_certificates: String,
    ca_key: String,
    certificate: String,
    key: String,
    about: About,
}

/// What is to be known of the certificates without reading them.
#[derive(Clone, PartialEq, Deserialize, Serialize)]
struct About {
    hosts: Vec<String>,
    renew: Timestamp,
    renew_authority: Timestamp,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{kind} `{name}` in namespace {namespace} {source}")]
    Api { kind: &'static str, name: &'static str, namespace: String, source: ApiError },
    #[error("a certificate cannot be made for what --contents-host says: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the system gives no random numbers")]
    Random,
    #[error(
        "the operator's certificate cannot be used: {0}; delete the data of Secret `{SECRET}` to have it made anew"
    )]
    Unusable(String),
}

#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("is not there: the chart makes an empty one, for the operator to fill")]
    Absent,
    #[error("was changed by another operator meanwhile")]
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
    /// The keys, and what keeps them: to be run for as long as they are used.
    pub(crate) fn keep(
        client: Client,
        namespace: String,
        hosts: Vec<String>,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = watch::channel(None);
        let keep = async move {
            let mut said = String::new();
            loop {
                let pause = match ensure(&client, &namespace, &hosts, &sender).await {
                    Ok(()) => {
                        said.clear();
                        EVERY
                    }
                    Err(error) => {
                        // Once, not every time: it is looked at often.
                        if error.to_string() != said {
                            said = error.to_string();
                            tracing::warn!(
                                "{said}; agents are given no contents of ConfigMaps and Secrets until it is"
                            );
                        }
                        RETRY
                    }
                };
                sleep(pause).await;
            }
        };
        (Self(receiver), keep)
    }

    /// What contents are hashed with, once it is known.
    pub(super) fn digest(&self) -> Option<Arc<hmac::Key>> {
        self.0.borrow().as_ref().map(|held| Arc::clone(&held.digest))
    }

    /// The certificate, once there is one.
    pub(super) fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().as_ref().map(|held| Arc::clone(&held.certified))
    }
}

/// Reads the keys, makes those that are missing or due, and tells of them.
async fn ensure(
    client: &Client,
    namespace: &str,
    hosts: &[String],
    sender: &watch::Sender<Option<Held>>,
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
    let stored = match Stored::due(before, hosts, Timestamp::now())? {
        Due::Nothing(stored) => stored,
        Due::Renewed(stored) => {
            secret.data = Some(stored.data());
            secrets.replace(SECRET, &PostParams::default(), &secret).await.map_err(at("Secret", SECRET))?;
            tracing::info!("made the operator's certificate anew");
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
    if sender.borrow().as_ref().is_none_or(|held| held.stored != stored) {
        sender.send_replace(Some(Held::new(stored)?));
    }
    Ok(())
}

enum Due {
    Nothing(Stored),
    Renewed(Stored),
}

impl Stored {
    fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            digest_key: data.get("digest.key")?.0.clone(),
            ca_certificates: text("ca.crt")?,
            ca_key: text("ca.key")?,
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            about: serde_json::from_slice(&data.get("about.json")?.0).ok()?,
        })
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        let Self { digest_key, ca_certificates, ca_key, certificate, key, about } = self.clone();
        let about = serde_json::to_string(&about).unwrap_or_default();
        let texts = [
            ("ca.crt", ca_certificates),
            ("ca.key", ca_key),
            ("tls.crt", certificate),
            ("tls.key", key),
            ("about.json", about),
        ];
        let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        texts.chain([("digest.key".to_owned(), ByteString(digest_key))]).collect()
    }

    /// What is there, or what is to take its place.
    fn due(before: Option<Self>, hosts: &[String], now: Timestamp) -> Result<Due, Error> {
        let Some(mut stored) = before else {
            let mut digest_key = vec![0; 32];
            let random = ring::rand::SystemRandom::new();
            random.fill(&mut digest_key).map_err(|_| Error::Random)?;
            let (ca_certificates, ca_key, renew_authority) = authority(now)?;
            let about = About { hosts: hosts.to_vec(), renew: now, renew_authority };
            let (certificate, key) = (String::new(), String::new());
            return Self { digest_key, ca_certificates, ca_key, certificate, key, about }.signed(now);
        };
        if now >= stored.about.renew_authority {
            let (certificate, key, renew) = authority(now)?;
            let old = newest(&stored.ca_certificates).to_owned();
            (stored.ca_certificates, stored.ca_key) = (certificate + &old, key);
            stored.about.renew_authority = renew;
        } else if stored.about.hosts == hosts && now < stored.about.renew {
            return Ok(Due::Nothing(stored));
        }
        stored.about.hosts = hosts.to_vec();
        stored.signed(now)
    }

    /// With a new certificate.
    fn signed(mut self, now: Timestamp) -> Result<Due, Error> {
        let mut parameters = CertificateParams::new(self.about.hosts.clone())?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, "samovar-operator");
        self.about.renew = valid(&mut parameters, now, SERVING);
        let (key, authority) = (KeyPair::generate()?, KeyPair::from_pem(&self.ca_key)?);
        let issuer = Issuer::new(authority_parameters(), authority);
        self.certificate = parameters.signed_by(&key, &issuer)?.pem();
        self.key = key.serialize_pem();
        Ok(Due::Renewed(self))
    }
}

impl Held {
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

/// The first certificate of several.
fn newest(certificates: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    let certificates = certificates.get(..).unwrap_or_default();
    certificates.find(END).map_or(certificates, |at| &certificates[..at + END.len()])
}

/// A new authority: its certificate, its key, and when it is to be renewed.
fn authority(now: Timestamp) -> Result<(String, String, Timestamp), Error> {
    let key = KeyPair::generate()?;
    let mut parameters = authority_parameters();
    let renew = valid(&mut parameters, now, AUTHORITY);
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem(), renew))
}

/// What an authority is called and may do. The same for each, so that its key alone is enough to sign.
fn authority_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.distinguished_name.push(DnType::CommonName, "samovar-operator-ca");
    parameters
}

/// Makes it valid from yesterday, since clocks differ, for so many days. Gives when it is to be renewed.
fn valid(parameters: &mut CertificateParams, now: Timestamp, (days, before): (i32, i32)) -> Timestamp {
    let day = |at: Timestamp| {
        let date = at.to_zoned(TimeZone::UTC).date();
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    parameters.not_before = day(now - DAY);
    parameters.not_after = day(now + DAY * days);
    now + DAY * (days - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(before: Option<Stored>, hosts: &[&str], now: Timestamp) -> (bool, Stored) {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        match Stored::due(before, &hosts, now).unwrap() {
            Due::Nothing(stored) => (false, stored),
            Due::Renewed(stored) => (true, stored),
        }
    }

    #[test]
    fn keys_are_made_once_and_renewed_in_time() {
        let now = Timestamp::now();
        let (made, first) = due(None, &["operator.demo.svc"], now);
        assert!(made && Stored::read(&first.data()).as_ref() == Some(&first));
        assert!(!due(Some(first.clone()), &["operator.demo.svc"], now + DAY * 59).0);

        let (renewed, second) = due(Some(first.clone()), &["operator.demo.svc"], now + DAY * 61);
        assert!(renewed && second.certificate != first.certificate);
        assert!(second.ca_key == first.ca_key && second.digest_key == first.digest_key);
        assert!(due(Some(first.clone()), &["other.demo.svc"], now).0);

        let (renewed, third) = due(Some(first.clone()), &["operator.demo.svc"], now + DAY * 3300);
        assert!(renewed && third.ca_key != first.ca_key && third.digest_key == first.digest_key);
        assert_eq!(third.ca_certificates.matches("BEGIN").count(), 2);
        assert!(third.ca_certificates.ends_with(&first.ca_certificates));
        let (_, fourth) = due(Some(third), &["operator.demo.svc"], now + DAY * 6600);
        assert_eq!(fourth.ca_certificates.matches("BEGIN").count(), 2);
    }
}
