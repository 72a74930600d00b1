//! Contents in a cluster: fetched from the operator, and held in memory only.

use std::{path::PathBuf, time::Duration};

use reqwest::{Certificate, StatusCode, redirect};
use samovar_crds::{Contents, Reason, names};
use tokio::sync::Semaphore;

use crate::{
    desired::Key,
    load::failure::{Failure, Retry},
};

/// The operator's endpoint for the contents of ConfigMaps and Secrets, and its credentials. Those are in files, since
/// they may change while the agent runs.
#[derive(Clone, Debug, clap::Args)]
pub struct OperatorOptions {
    /// The URL at which the operator serves the contents of the ConfigMaps and Secrets that plugins name:
    /// `https://samovar-operator.samovar-system.svc:8443`. Without it, plugins that name any fail.
    #[arg(long, value_name = "URL", requires_all = ["operator_ca", "operator_token"])]
    pub operator_url: Option<String>,
    /// The CA certificates that sign the operator's certificate; read at each use.
    #[arg(long, value_name = "FILE")]
    pub operator_ca: Option<PathBuf>,
    /// The token of this Pod's ServiceAccount for the audience `samovar-operator`; read at each use.
    #[arg(long, value_name = "FILE")]
    pub operator_token: Option<PathBuf>,
}

/// A client of the operator.
pub(crate) struct Operator {
    options: OperatorOptions,
    /// Permits for requests.
    requests: Semaphore,
}

/// The reason that contents could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(
        "this agent has no access to the operator: set --operator-url, --operator-ca and --operator-token"
    )]
    NotConfigured,
    #[error(
        "{what} cannot be read ({kind}); it is mounted into the agent's Pod, and may appear a moment late"
    )]
    File { what: &'static str, kind: std::io::ErrorKind },
    #[error("invalid operator CA bundle: {0}")]
    Authority(#[source] reqwest::Error),
    #[error("the operator is unreachable: {0}")]
    Unreachable(String),
    #[error("the operator refused with {status}: {why}")]
    Refused { status: StatusCode, why: String },
    #[error("malformed response from the operator: {0}")]
    Unreadable(String),
}

/// The most concurrent requests: an agent that starts with many plugins leaves the operator time for the others.
const REQUESTS: usize = 4;
/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The timeout of connecting to the operator.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a refusal.
const REFUSAL_BYTES: usize = 1000;
/// The most bytes of a response: JSON escapes one byte as six at the worst.
const RESPONSE_BYTES: usize = 6 * samovar_crds::LARGEST_CONTENTS;

impl Operator {
    pub(crate) fn new(options: OperatorOptions) -> Self {
        Self { options, requests: Semaphore::new(REQUESTS) }
    }

    /// Fetches the contents for one of this agent's assignments.
    pub(crate) async fn fetch(&self, assignment: &Key) -> Result<Contents, Failure> {
        let _permit = self.requests.acquire().await;
        get(&self.options, assignment).await.map_err(|error| {
            let why = format_args!("the contents of its ConfigMaps and Secrets are unknown: {error}");
            Failure::new(Reason::SecretUnavailable, Retry::Often, why)
        })
    }
}

async fn get(options: &OperatorOptions, assignment: &Key) -> Result<Contents, FetchError> {
    let (Some(url), Some(ca), Some(token)) =
        (&options.operator_url, &options.operator_ca, &options.operator_token)
    else {
        return Err(FetchError::NotConfigured);
    };
    let read = async |what, path| {
        tokio::fs::read_to_string(path).await.map_err(|error| FetchError::File { what, kind: error.kind() })
    };
    let (ca, token) = (read("the operator's CA", ca).await?, read("this Pod's token", token).await?);
    // A new client for each request: requests are few, and the certificates are rotated.
    let client = reqwest::Client::builder()
        .tls_certs_only(Certificate::from_pem_bundle(ca.as_bytes()).map_err(FetchError::Authority)?)
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .build()
        .map_err(FetchError::Authority)?;
    let Key { namespace, revision, .. } = assignment;
    let url = format!("{}{}", url.trim_end_matches('/'), names::contents_path(namespace, revision));
    let response = client.get(url).bearer_auth(token.trim()).send().await;
    let response = response.map_err(|error| FetchError::Unreachable(cause(&error)))?;
    let status = response.status();
    let body = body(response, if status.is_success() { RESPONSE_BYTES } else { REFUSAL_BYTES }).await?;
    if !status.is_success() {
        let why = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(FetchError::Refused { status, why });
    }
    // Without the text that cannot be parsed: it may be a secret.
    serde_json::from_slice(&body)
        .map_err(|error| FetchError::Unreadable(format!("unexpected JSON at column {}", error.column())))
}

/// Reads the body of a response, at most `limit` bytes.
async fn body(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| FetchError::Unreachable(cause(&error)))? {
        if body.len() + chunk.len() > limit {
            return Err(FetchError::Unreadable(format!("it is longer than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The innermost cause: the outer ones contain only the URL, and that the request failed.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
