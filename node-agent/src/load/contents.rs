//! Contents in a cluster: asked of the operator, and held in memory only.

use std::{path::PathBuf, time::Duration};

use reqwest::{Certificate, StatusCode, redirect};
use samovar_crds::{Contents, Reason, names};
use tokio::sync::Semaphore;

use crate::{
    desired::Key,
    load::failure::{Failure, Retry},
};

/// Where the operator gives the contents of ConfigMaps and Secrets, and how it is known. What may change while the
/// agent runs is in files.
#[derive(Clone, Debug, clap::Args)]
pub struct OperatorOptions {
    /// The operator's address, which gives what the ConfigMaps and Secrets hold that plugins name:
    /// `https://samovar-operator.samovar-system.svc:8443`. Left out: plugins that name some fail.
    #[arg(long, value_name = "URL", requires_all = ["operator_ca", "operator_token"])]
    pub operator_url: Option<String>,
    /// The certificates that the operator's is to be signed with; read at each use.
    #[arg(long, value_name = "FILE")]
    pub operator_ca: Option<PathBuf>,
    /// The token of this Pod's ServiceAccount for the audience `samovar-operator`; read at each use.
    #[arg(long, value_name = "FILE")]
    pub operator_token: Option<PathBuf>,
}

/// The operator, as an agent asks it.
pub(crate) struct Operator {
    options: OperatorOptions,
    /// Questions at once.
    questions: Semaphore,
}

/// Why the operator did not give them.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(
        "this agent was not told where the operator is: set --operator-url, --operator-ca and --operator-token"
    )]
    NotTold,
    #[error("{what} cannot be read ({kind}); it is mounted into the agent's Pod, and may come a moment late")]
    File { what: &'static str, kind: std::io::ErrorKind },
    #[error("the certificates that the operator's is to be signed with are none: {0}")]
    Authority(#[source] reqwest::Error),
    #[error("the operator does not answer: {0}")]
    Unreachable(String),
    #[error("the operator says {status}: {why}")]
    Refused { status: StatusCode, why: String },
    #[error("the operator's answer is none: {0}")]
    Unreadable(String),
}

/// Questions at once: an agent that starts with many plugins leaves the operator time for the others.
const QUESTIONS: usize = 4;
/// How long one question may take.
const LONGEST: Duration = Duration::from_secs(20);
/// How long the operator may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);
/// The most bytes of why the operator refuses.
const WHY: usize = 1000;
/// The most bytes of an answer: JSON makes six of one at the worst.
const ANSWER: usize = 6 * samovar_crds::LARGEST_CONTENTS;

impl Operator {
    pub(crate) fn new(options: OperatorOptions) -> Self {
        Self { options, questions: Semaphore::new(QUESTIONS) }
    }

    /// What it gives for one of this agent's assignments.
    pub(crate) async fn ask(&self, assignment: &Key) -> Result<Contents, Failure> {
        let _place = self.questions.acquire().await;
        get(&self.options, assignment).await.map_err(|error| {
            let why = format_args!("what its ConfigMaps and Secrets hold is not known: {error}");
            Failure::new(Reason::SecretUnavailable, Retry::Often, why)
        })
    }
}

async fn get(options: &OperatorOptions, assignment: &Key) -> Result<Contents, AskError> {
    let (Some(url), Some(ca), Some(token)) =
        (&options.operator_url, &options.operator_ca, &options.operator_token)
    else {
        return Err(AskError::NotTold);
    };
    let read = async |what, path| {
        tokio::fs::read_to_string(path).await.map_err(|error| AskError::File { what, kind: error.kind() })
    };
    let (ca, token) = (read("the operator's CA", ca).await?, read("this Pod's token", token).await?);
    // Made for each question: these are few, and the certificates are renewed.
    let client = reqwest::Client::builder()
        .tls_certs_only(Certificate::from_pem_bundle(ca.as_bytes()).map_err(AskError::Authority)?)
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(LONGEST)
        .build()
        .map_err(AskError::Authority)?;
    let Key { namespace, revision, .. } = assignment;
    let url = format!("{}{}", url.trim_end_matches('/'), names::contents_path(namespace, revision));
    let answer = client.get(url).bearer_auth(token.trim()).send().await;
    let answer = answer.map_err(|error| AskError::Unreachable(cause(&error)))?;
    let status = answer.status();
    let body = body(answer, if status.is_success() { ANSWER } else { WHY }).await?;
    if !status.is_success() {
        let why = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(AskError::Refused { status, why });
    }
    // What does not read is not said: it may be a secret.
    serde_json::from_slice(&body)
        .map_err(|error| AskError::Unreadable(format!("no JSON of its form at column {}", error.column())))
}

/// The body of an answer, which has so many bytes at most.
async fn body(mut answer: reqwest::Response, most: usize) -> Result<Vec<u8>, AskError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| AskError::Unreachable(cause(&error)))? {
        if body.len() + chunk.len() > most {
            return Err(AskError::Unreadable(format!("it is longer than {most} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The innermost cause: the others only say that sending failed, and where to.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
