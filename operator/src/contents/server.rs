//! The contents server: serves agents the contents of their assignments, over HTTPS.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use kube::{Api, Client};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use samovar_crds::{Contents, Missing, PluginAssignment, names};
use samovar_telemetry::server::{self, Bounds};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Keys, objects,
    tokens::{TokenError, Tokens},
    version,
};

/// Serves contents to agents.
pub(crate) struct Server {
    client: Client,
    keys: Keys,
    tokens: Tokens,
    /// The watched namespaces; empty for all.
    namespaces: Vec<String>,
}

/// The port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; choose another address with --contents-listen")]
pub(crate) struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// At most 64 connections of 20 s each.
const BOUNDS: Bounds = Bounds { connections: 64, lifetime: Duration::from_secs(20) };
/// The limit on a TLS handshake, before these 20 s.
const HANDSHAKE: Duration = Duration::from_secs(5);

impl Server {
    pub(crate) fn new(
        client: Client,
        keys: Keys,
        agent_namespace: &str,
        agent_account: &str,
        namespaces: Vec<String>,
    ) -> Self {
        let tokens = Tokens::new(client.clone(), agent_namespace, agent_account);
        Self { client, keys, tokens, namespaces }
    }

    /// Binds the port. The returned future serves it, and never ends.
    pub(crate) async fn listen(
        self,
        address: SocketAddr,
    ) -> Result<(SocketAddr, impl Future<Output = ()>), ListenError> {
        let refuse = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        let certificate = Arc::new(Certificate(self.keys.clone()));
        let tls = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificate);
        let router = Router::new()
            .route(&names::contents_path("{namespace}", "{assignment}"), get(answer))
            .with_state(Arc::new(self));
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let handshake = move |stream: TcpStream| {
            let handshake = timeout(HANDSHAKE, acceptor.accept(stream));
            async move { handshake.await.ok()?.ok() }
        };
        Ok((bound, server::serve(listener, router, BOUNDS, handshake)))
    }

    async fn contents(&self, token: &str, namespace: &str, name: &str) -> Result<Contents, Denied> {
        let agent = self.tokens.agent(token).await?;
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|watched| watched == namespace) {
            return Err(Denied::NotAssigned);
        }
        let assignments: Api<PluginAssignment> = Api::namespaced(self.client.clone(), namespace);
        let assignment =
            assignments.get_opt(name).await?.filter(|assignment| agent.is_assigned(&assignment.spec));
        // An agent cannot tell another's assignment from one that does not exist.
        let spec = assignment.ok_or(Denied::NotAssigned)?.spec;
        let policy = spec.template.security_policy.unwrap_or_default();
        let contents = policy.contents(&objects::read(&self.client, namespace, policy.objects()).await?)?;
        let key = self.keys.digest().ok_or(Denied::NoKey)?;
        let is_current = spec.contents == Some(version(&key, namespace, &spec.plugin, &contents));
        if is_current { Ok(contents) } else { Err(Denied::Outdated) }
    }
}

/// The reason why a request is denied.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("this agent has no such assignment")]
    NotAssigned,
    #[error("{0}")]
    Missing(#[from] Missing),
    #[error("the contents have changed since this revision was made; the next revision is on its way")]
    Outdated,
    #[error("the operator has no key yet")]
    NoKey,
    #[error("a request to the API server failed: {0}")]
    Api(#[from] kube::Error),
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Token(TokenError::Invalid) => StatusCode::UNAUTHORIZED,
            Self::Token(TokenError::Throttled) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotAssigned => StatusCode::FORBIDDEN,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Outdated => StatusCode::CONFLICT,
            Self::Token(TokenError::Unavailable(_)) | Self::NoKey | Self::Api(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        (status, self.to_string()).into_response()
    }
}

async fn answer(
    State(server): State<Arc<Server>>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    // An invalid name would lead to another path of the API server.
    if !names::is_dns_label(&namespace) || !names::is_dns_subdomain(&name) {
        return Denied::NotAssigned.into_response();
    }
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    match server.contents(token, &namespace, &name).await {
        Ok(contents) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, serde_json::to_vec(&contents).unwrap_or_default()).into_response()
        }
        Err(denied) => {
            tracing::warn!(namespace, assignment = name, "denied a request for contents: {denied}");
            denied.into_response()
        }
    }
}

/// Resolves the current certificate at each handshake.
struct Certificate(Keys);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }
}
