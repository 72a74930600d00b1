//! The certificates, keys and kubeconfigs of one cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// A certificate authority that writes its certificates and keys into one folder.
pub(crate) struct Pki {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    /// Writes `ca.crt`, and `service-account.key` and `.pub`, which sign and verify ServiceAccount tokens.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, "samovar-test-bed");
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        fs::write(folder.join("ca.crt"), authority.pem())?;
        let key = KeyPair::generate()?;
        fs::write(folder.join("service-account.key"), key.serialize_pem())?;
        fs::write(folder.join("service-account.pub"), key.public_key_pem())?;
        Ok(Self { folder: folder.to_owned(), authority })
    }

    /// Writes `<name>.crt` and `<name>.key` for the client `user` of `group`, and for a server if there are
    /// `hosts`.
    pub(crate) fn certificate(
        &self,
        name: &str,
        user: &str,
        group: Option<&str>,
        hosts: &[&str],
    ) -> Result<()> {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let mut usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !hosts.is_empty() {
            usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let mut parameters = CertificateParams::new(hosts)?;
        parameters.extended_key_usages = usages;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            parameters.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.authority)?;
        fs::write(self.folder.join(format!("{name}.crt")), certificate.pem())?;
        fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// Writes `<name>.kubeconfig` for the client `name`.
    pub(crate) fn kubeconfig(&self, name: &str, server: &str) -> Result<()> {
        let file = |name: &str| self.folder.join(name);
        let cluster = json!({ "server": server, "certificate-authority": file("ca.crt") });
        let user = json!({
            "client-certificate": file(&format!("{name}.crt")), "client-key": file(&format!("{name}.key")),
        });
        write_kubeconfig(&file(&format!("{name}.kubeconfig")), &cluster, &user)
    }
}

/// Writes a kubeconfig of one cluster and one user.
pub(crate) fn write_kubeconfig(
    path: &Path,
    cluster: &serde_json::Value,
    user: &serde_json::Value,
) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "bed", "cluster": cluster }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": "user" } }],
        "current-context": "bed",
    });
    fs::write(path, serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}
