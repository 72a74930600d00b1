//! The network: which hosts a guest may reach.

use std::sync::Arc;

use http::HeaderName;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::http::CHUNK_BYTES;

/// The hosts that a guest may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkGrant {
    hosts: Arc<[String]>,
}

/// What is no host that can be allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{host}` cannot be allowed: {why}")]
pub struct InvalidHost {
    host: String,
    why: &'static str,
}

impl NetworkGrant {
    /// A grant of these hosts.
    pub fn new(hosts: &[String]) -> Result<Self, InvalidHost> {
        match hosts.first() {
            None => Ok(Self { hosts: Arc::new([]) }),
            Some(host) => Err(InvalidHost { host: host.clone(), why: "no host can be, yet" }),
        }
    }
}

/// What sends the requests that a guest makes.
#[derive(Default)]
pub(crate) struct Outgoing;

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io), Error>> + Send>;

impl WasiHttpHooks for Outgoing {
    // What the crate does too, without an allocation for each header.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn send_request(&mut self, _: http::Request<WasiBody>, _: Option<RequestOptions>, _: Io) -> Sent {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}
