//! The registry client: its options, its authorization, and bounded `GET`s that verify digests.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use oci_client::{
    RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER},
    redirect,
};
use sha2::{Digest as _, Sha256};

use crate::{Error, Reference, credentials::Credentials, digest};

/// Options of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Registries (`host:port`) to reach over plain HTTP. Loopback addresses always are.
    pub insecure_registries: Vec<String>,
    /// A Docker `config.json` with credentials; `None` for anonymous requests.
    pub docker_config: Option<PathBuf>,
    /// Size limit of a manifest, in bytes.
    pub max_manifest_bytes: u64,
    /// Size limit of a layer, and of all layers unpacked, in bytes.
    pub max_module_bytes: u64,
    /// Timeout of a connection, and of each read of a response.
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            docker_config: None,
            max_manifest_bytes: 4 << 20,
            max_module_bytes: 256 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

/// A client for OCI registries. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    plain: oci_client::Client,
    secure: oci_client::Client,
    insecure_registries: HashSet<String>,
    credentials: Credentials,
    max_manifest_bytes: u64,
    max_module_bytes: u64,
}

/// The `Authorization` header of a request.
pub(crate) enum Authorization {
    None,
    Basic(String, String),
    Bearer(String),
}

/// Deadline of one blob: the read timeout alone lets a registry trickle bytes without end.
const LONGEST_PULL: Duration = Duration::from_mins(10);
/// Limit of redirects, which registries use to send clients to their blob stores.
const REDIRECTS: usize = 5;

impl Client {
    /// Builds a client.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let setup = |error: reqwest::Error| Error::Setup(error.to_string());
        let redirects = redirect::Policy::custom(|attempt| {
            let left_https = attempt.previous().iter().any(|url| url.scheme() == "https")
                && attempt.url().scheme() != "https";
            if left_https {
                attempt.error("the registry redirects from https to http")
            } else if attempt.previous().len() > REDIRECTS {
                attempt.error(format!("the registry redirects more than {REDIRECTS} times"))
            } else {
                attempt.follow()
            }
        });
        let http = reqwest::Client::builder()
            .user_agent(concat!("samovar/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.timeout)
            .read_timeout(options.timeout)
            .redirect(redirects)
            .build()
            .map_err(setup)?;
        let oci = |protocol| {
            oci_client::Client::new(ClientConfig {
                protocol,
                connect_timeout: Some(options.timeout),
                read_timeout: Some(options.timeout),
                ..ClientConfig::default()
            })
        };
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                plain: oci(ClientProtocol::Http),
                secure: oci(ClientProtocol::Https),
                insecure_registries: options.insecure_registries.into_iter().collect(),
                credentials: Credentials::new(options.docker_config),
                max_manifest_bytes: options.max_manifest_bytes,
                max_module_bytes: options.max_module_bytes,
            }),
        })
    }

    pub(crate) fn max_manifest_bytes(&self) -> u64 {
        self.inner.max_manifest_bytes
    }

    pub(crate) fn max_module_bytes(&self) -> u64 {
        self.inner.max_module_bytes
    }

    /// The client of oci-client, which gets tokens and pushes.
    pub(crate) fn oci(&self, reference: &Reference) -> &oci_client::Client {
        if self.is_plain(reference) { &self.inner.plain } else { &self.inner.secure }
    }

    pub(crate) fn credentials(&self, reference: &Reference) -> Result<RegistryAuth, Error> {
        self.inner.credentials.of(reference.registry())
    }

    fn is_plain(&self, reference: &Reference) -> bool {
        let host = reference.host();
        self.inner.insecure_registries.contains(host) || is_loopback(host)
    }

    /// Authorizes pulls from this repository: by token where the registry issues one, else by basic credentials.
    pub(crate) async fn authorize(&self, reference: &Reference) -> Result<Authorization, Error> {
        let credentials = self.credentials(reference)?;
        let token = self.oci(reference).auth(reference.inner(), &credentials, RegistryOperation::Pull).await;
        match (token, credentials) {
            (Ok(Some(token)), _) => Ok(Authorization::Bearer(token)),
            (Ok(None), RegistryAuth::Basic(user, password)) => Ok(Authorization::Basic(user, password)),
            (Ok(None), _) => Ok(Authorization::None),
            (Err(error), _) => Err(of_oci(reference, error)),
        }
    }

    /// Fetches a manifest and its media type, up to [`ClientOptions::max_manifest_bytes`].
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        authorization: &Authorization,
        accept: &str,
    ) -> Result<(Bytes, String), Error> {
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let response = self.get(reference, authorization, "manifests", name, accept).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let cap = self.max_manifest_bytes();
        let body = body(reference, response, cap, reference.digest(), |_, _| {}).await?;
        Ok((body, media_type))
    }

    /// Fetches a blob of at most `cap` bytes and verifies its digest.
    pub(crate) async fn blob(
        &self,
        reference: &Reference,
        authorization: &Authorization,
        digest: &str,
        cap: u64,
        progress: impl Fn(u64, Option<u64>),
    ) -> Result<Bytes, Error> {
        let response = self.get(reference, authorization, "blobs", digest, "*/*").await?;
        let body = body(reference, response, cap, Some(digest), progress);
        let slow =
            |_| unavailable(reference, format!("a blob took longer than {} s", LONGEST_PULL.as_secs()), None);
        tokio::time::timeout(LONGEST_PULL, body).await.map_err(slow)?
    }

    async fn get(
        &self,
        reference: &Reference,
        authorization: &Authorization,
        what: &str,
        name: &str,
        accept: &str,
    ) -> Result<Response, Error> {
        let scheme = if self.is_plain(reference) { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{}/{what}/{name}", reference.host(), reference.repository());
        let request = self.inner.http.get(url).header(ACCEPT, accept);
        let request = match authorization {
            Authorization::None => request,
            Authorization::Basic(user, password) => request.basic_auth(user, Some(password)),
            Authorization::Bearer(token) => request.bearer_auth(token),
        };
        let response = request.send().await.map_err(|error| of_http(reference, error))?;
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(Error::NotFound { reference: reference.to_string() }),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(unauthorized(reference, status.as_str()))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(
                unavailable(reference, format!("it answered {status}"), retry_after.map(Duration::from_secs)),
            ),
            status => Err(Error::unsupported(reference, format!("the registry answered {status}"))),
        }
    }
}

/// Reads a body of at most `cap` bytes; hashes it while it arrives and compares with `digest`, where one is named.
async fn body(
    reference: &Reference,
    response: Response,
    cap: u64,
    digest: Option<&str>,
    progress: impl Fn(u64, Option<u64>),
) -> Result<Bytes, Error> {
    let too_large = || {
        let why = format!("it is larger than the limit of {} MiB", cap >> 20);
        Error::unsupported(reference, why)
    };
    let total = response.content_length();
    if total.is_some_and(|total| total > cap) {
        return Err(too_large());
    }
    let mut sha = Sha256::new();
    let mut bytes =
        Vec::with_capacity(usize::try_from(total.unwrap_or_default()).unwrap_or_default().min(1 << 20));
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| of_http(reference, error))?;
        if bytes.len() as u64 + piece.len() as u64 > cap {
            return Err(too_large());
        }
        sha.update(&piece);
        bytes.extend_from_slice(&piece);
        progress(bytes.len() as u64, total);
    }
    match digest {
        Some(digest) if digest::write(&sha.finalize()) != digest => {
            Err(Error::DigestMismatch { what: digest.to_owned() })
        }
        _ => Ok(bytes.into()),
    }
}

/// True for `localhost` and loopback addresses, with or without a port.
fn is_loopback(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn unavailable(reference: &Reference, why: String, retry_after: Option<Duration>) -> Error {
    Error::Unavailable { registry: reference.registry().to_owned(), why, retry_after }
}

fn unauthorized(reference: &Reference, why: &str) -> Error {
    Error::Unauthorized {
        reference: reference.to_string(),
        registry: reference.registry().to_owned(),
        why: why.to_string(),
    }
}

fn of_http(reference: &Reference, error: reqwest::Error) -> Error {
    let error = error.without_url();
    let cause = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source()).last();
    unavailable(reference, cause.map(ToString::to_string).unwrap_or_default(), None)
}

/// Converts an error of oci-client.
pub(crate) fn of_oci(reference: &Reference, error: OciDistributionError) -> Error {
    match error {
        OciDistributionError::RequestError(error) => of_http(reference, error),
        OciDistributionError::ServerError { code, .. } => {
            unavailable(reference, format!("it answered {code}"), None)
        }
        OciDistributionError::UnauthorizedError { .. } => unauthorized(reference, "unauthorized"),
        OciDistributionError::AuthenticationFailure(_) => {
            unauthorized(reference, "it refused the credentials")
        }
        OciDistributionError::ImageManifestNotFoundError(_) => {
            Error::NotFound { reference: reference.to_string() }
        }
        other => Error::unsupported(reference, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_registries_default_to_plain_http() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1:5000", "registry:5000", "127.0.0.1.nip.io"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
