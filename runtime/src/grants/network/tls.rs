//! TLS to hosts: HTTP/1.1 over it, and the roots that this machine trusts, as for registries.

use std::{io, sync::Arc};

use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::{TlsConnector, client::TlsStream};
use wasmtime_wasi_http::Error;

use super::policy::Host;

pub(super) fn connector() -> Result<TlsConnector, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?;
    Ok(speaking_http(builder.with_no_client_auth()))
}

fn speaking_http(mut config: ClientConfig) -> TlsConnector {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Begins TLS with that host, and with no other.
pub(super) async fn connect(
    connector: &TlsConnector,
    host: &Host,
    stream: tokio::net::TcpStream,
) -> Result<TlsStream<tokio::net::TcpStream>, Error> {
    let name = match host {
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| Error::HttpRequestUriInvalid)?,
        Host::Address(address) => ServerName::from(*address),
    };
    connector.connect(name, stream).await.map_err(|error| failure(&error))
}

fn failure(error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: None }
        }
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}
