//! Guests that call hosts over HTTPS: they trust the root certificates of the machine.

use std::{fs, sync::Arc};

use anyhow::{Result, ensure};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use samovar_testbed::upstream::{Upstream, respond};
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::server::{Server, file, folder, plugin};

/// A host on 127.0.0.1, and its certificate, which is for `name`.
async fn host(name: &str) -> Result<(Upstream, String)> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()])?;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let host = Upstream::start(move |stream| {
        let handshake = acceptor.accept(stream);
        async move { respond(handshake.await?, "hi").await }
    });
    Ok((host.await?, cert.pem()))
}

#[tokio::test]
async fn a_guest_trusts_the_root_certificates_of_its_machine_alone() -> Result<()> {
    let (trusted, certificate) = host("127.0.0.1").await?;
    let (of_another_name, other_certificate) = host("api.example").await?;
    let (unknown, _) = host("127.0.0.1").await?;
    let folder = folder("https")?;
    let certificates = folder.join("trusted.pem");
    fs::write(&certificates, certificate + &other_certificate)?;
    fs::copy(file("tests/guests/outgoing/outgoing.wasm"), folder.join("out.wasm"))?;
    let allowed = [&trusted, &of_another_name, &unknown].map(|host| &host.authority);
    let policy = format!("securityPolicy: {{network: {{allowedHosts: {}}}}}", json!(allowed));
    fs::write(folder.join("out.yaml"), plugin("out", "out.wasm", &policy))?;
    let server = Server::start_trusting(folder, &certificates).await?;
    for (what, host, status, says) in [
        ("a trusted certificate", &trusted, 200, r#""status":200"#),
        ("a certificate for another name", &of_another_name, 502, "TlsCertificateError"),
        ("an unknown certificate", &unknown, 502, "TlsCertificateError"),
    ] {
        let arguments = json!(["https", host.authority, "/"]).to_string();
        let answer = server.call("out", "fetch", arguments).await?;
        ensure!(answer.status == status && answer.body.contains(says), "{what}: {answer:?}");
    }
    Ok(())
}
