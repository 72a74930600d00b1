//! Issues and renews the operator's CA and server certificate, in the form of its Secret. Pure, but for random numbers
//! (`docs/decisions/0016`).

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    jiff::{SignedDuration, Timestamp, tz::TimeZone},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// The days for which the server certificate is valid, and the days before its expiry at which it is renewed.
const SERVER: (i32, i32) = (90, 30);
/// The same for the CA. Agents see a new one up to a minute late, and retry until then.
const AUTHORITY: (i32, i32) = (3650, 365);

/// The Secret's data.
#[derive(Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) digest_key: Vec<u8>,
    /// The newest CA first; the previous one is trusted too.
    pub(super) ca_certificates: String,
    ca_key: String,
    pub(super) certificate: String,
    pub(super) key: String,
    metadata: Metadata,
}

/// The facts that renewal needs, so that it need not parse certificates.
#[derive(Clone, PartialEq, Deserialize, Serialize)]
struct Metadata {
    hosts: Vec<String>,
    renew: Timestamp,
    renew_authority: Timestamp,
}

/// The failure to issue a certificate or a key.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error("cannot issue a certificate for the hosts of --contents-host: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the system's random number generator failed")]
    Random,
}

/// The data to use. `Renewed` data has to be written to the Secret.
pub(super) enum Renewal {
    Unchanged(Stored),
    Renewed(Stored),
}

impl Stored {
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            digest_key: data.get("digest.key")?.0.clone(),
            ca_certificates: text("ca.crt")?,
            ca_key: text("ca.key")?,
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            metadata: serde_json::from_slice(&data.get("about.json")?.0).ok()?,
        })
    }

    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let Self { digest_key, ca_certificates, ca_key, certificate, key, metadata } = self.clone();
        let metadata = serde_json::to_string(&metadata).unwrap_or_default();
        let texts = [
            ("ca.crt", ca_certificates),
            ("ca.key", ca_key),
            ("tls.crt", certificate),
            ("tls.key", key),
            ("about.json", metadata),
        ];
        let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        texts.chain([("digest.key".to_owned(), ByteString(digest_key))]).collect()
    }

    /// Keeps `before` if it is valid for `hosts`, and issues what is missing or due.
    pub(super) fn renewal(
        before: Option<Self>,
        hosts: &[String],
        now: Timestamp,
    ) -> Result<Renewal, MakeError> {
        let Some(mut stored) = before else {
            let mut digest_key = vec![0; 32];
            let random = SystemRandom::new();
            random.fill(&mut digest_key).map_err(|_| MakeError::Random)?;
            let (ca_certificates, ca_key, renew_authority) = authority(now)?;
            let metadata = Metadata { hosts: hosts.to_vec(), renew: now, renew_authority };
            let (certificate, key) = (String::new(), String::new());
            return Self { digest_key, ca_certificates, ca_key, certificate, key, metadata }.signed(now);
        };
        if now >= stored.metadata.renew_authority {
            let (certificate, key, renew) = authority(now)?;
            let old = newest(&stored.ca_certificates).to_owned();
            (stored.ca_certificates, stored.ca_key) = (certificate + &old, key);
            stored.metadata.renew_authority = renew;
        } else if stored.metadata.hosts == hosts && now < stored.metadata.renew {
            return Ok(Renewal::Unchanged(stored));
        }
        stored.metadata.hosts = hosts.to_vec();
        stored.signed(now)
    }

    /// Issues a new server certificate.
    fn signed(mut self, now: Timestamp) -> Result<Renewal, MakeError> {
        let mut parameters = CertificateParams::new(self.metadata.hosts.clone())?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, "samovar-operator");
        self.metadata.renew = set_validity(&mut parameters, now, SERVER);
        let (key, authority) = (KeyPair::generate()?, KeyPair::from_pem(&self.ca_key)?);
        let issuer = Issuer::new(authority_parameters(), authority);
        self.certificate = parameters.signed_by(&key, &issuer)?.pem();
        self.key = key.serialize_pem();
        Ok(Renewal::Renewed(self))
    }
}

/// The first of several PEM certificates.
fn newest(certificates: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    certificates.find(END).map_or(certificates, |at| &certificates[..at + END.len()])
}

/// Issues a CA: its certificate, its key, and the time of its renewal.
fn authority(now: Timestamp) -> Result<(String, String, Timestamp), MakeError> {
    let key = KeyPair::generate()?;
    let mut parameters = authority_parameters();
    let renew = set_validity(&mut parameters, now, AUTHORITY);
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem(), renew))
}

/// The name and the usages of a CA. They are the same for each, so that a CA's key alone suffices to sign.
fn authority_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.distinguished_name.push(DnType::CommonName, "samovar-operator-ca");
    parameters
}

/// Sets the validity from yesterday, since clocks differ, until in `days` days. Returns the time of the renewal.
fn set_validity(parameters: &mut CertificateParams, now: Timestamp, (days, before): (i32, i32)) -> Timestamp {
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

    pub(super) fn renewal(before: Option<Stored>, hosts: &[&str], now: Timestamp) -> (bool, Stored) {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        match Stored::renewal(before, &hosts, now).unwrap() {
            Renewal::Unchanged(stored) => (false, stored),
            Renewal::Renewed(stored) => (true, stored),
        }
    }

    #[test]
    fn keys_are_issued_once_and_renewed_before_they_expire() {
        let now = Timestamp::now();
        let (made, first) = renewal(None, &["operator.demo.svc"], now);
        assert!(made && Stored::read(&first.data()).as_ref() == Some(&first));
        assert!(!renewal(Some(first.clone()), &["operator.demo.svc"], now + DAY * 59).0);

        let (renewed, second) = renewal(Some(first.clone()), &["operator.demo.svc"], now + DAY * 61);
        assert!(renewed && second.certificate != first.certificate);
        assert!(second.ca_key == first.ca_key && second.digest_key == first.digest_key);
        assert!(renewal(Some(first.clone()), &["other.demo.svc"], now).0);

        let (renewed, third) = renewal(Some(first.clone()), &["operator.demo.svc"], now + DAY * 3300);
        assert!(renewed && third.ca_key != first.ca_key && third.digest_key == first.digest_key);
        assert_eq!(third.ca_certificates.matches("BEGIN").count(), 2);
        assert!(third.ca_certificates.ends_with(&first.ca_certificates));
        let (_, fourth) = renewal(Some(third), &["operator.demo.svc"], now + DAY * 6600);
        assert_eq!(fourth.ca_certificates.matches("BEGIN").count(), 2);
    }
}
