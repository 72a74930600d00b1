//! TLS to hosts, with ALPN for HTTP/1.1 and the root certificates that this machine trusts, as for registries.

use std::{io, sync::Arc};

use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::{TlsConnector, client::TlsStream};
use wasmtime_wasi_http::Error;

use super::host::HostName;

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

/// Makes the TLS handshake, in which the server must present a certificate for the host.
pub(super) async fn connect(
    connector: &TlsConnector,
    host: &HostName,
    stream: tokio::net::TcpStream,
) -> Result<TlsStream<tokio::net::TcpStream>, Error> {
    let name = match host {
        HostName::Name(name) => {
            ServerName::try_from(name.to_string()).map_err(|_| Error::HttpRequestUriInvalid)?
        }
        HostName::Address(address) => ServerName::from(*address),
    };
    connector.connect(name, stream).await.map_err(|error| error_code(&error))
}

fn error_code(error: &io::Error) -> Error {
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

#[cfg(test)]
mod tests {
    use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A connector that trusts one certificate, for `api.example` and 127.0.0.1, and a server that presents it.
    async fn trusting() -> (TlsConnector, std::net::SocketAddr) {
        let names = ["api.example".to_owned(), "127.0.0.1".to_owned()];
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let client =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let server =
            server.unwrap().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        (speaking_http(client), address)
    }

    #[tokio::test]
    async fn a_certificate_must_name_the_requested_host() {
        let (connector, address) = trusting().await;
        for (host, trusted) in
            [("api.example", true), ("127.0.0.1", true), ("other.example", false), ("127.0.0.2", false)]
        {
            let stream = TcpStream::connect(address).await.unwrap();
            let connected = connect(&connector, &HostName::parse(host).unwrap(), stream).await;
            assert_eq!(connected.is_ok(), trusted, "{host}");
            if let Err(error) = connected {
                assert!(matches!(error, Error::TlsCertificateError), "{host}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn a_certificate_without_a_trusted_root_is_refused() {
        let (_, address) = trusting().await;
        let stream = TcpStream::connect(address).await.unwrap();
        let connected =
            connect(&connector().unwrap(), &HostName::parse("api.example").unwrap(), stream).await;
        assert!(matches!(connected, Err(Error::TlsCertificateError)));
    }
}
