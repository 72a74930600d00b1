//! The client: its options, and the two gets that everything else is made of.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use oci_client::secrets::RegistryAuth;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};

use crate::{
    Error, Reference,
    auth::Access,
    credentials::{Credential, Credentials},
    manifest::{self, Descriptor},
    transport::{self, Body, PlainHosts},
};

/// How to reach registries.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Registries (`host:port`) that are spoken to over plain HTTP. Loopback addresses always are.
    pub insecure_registries: Vec<String>,
    /// A Docker `config.json` with credentials, read again when it changes; `None`: anonymous. Of it, `auths` is
    /// used: programs named by `credsStore` and `credHelpers` are not run.
    pub docker_config: Option<PathBuf>,
    /// The largest manifest that is taken, in bytes.
    pub max_manifest_bytes: u64,
    /// The largest module that is taken, in bytes, and the most that its layers may be, packed or unpacked.
    pub max_module_bytes: u64,
    /// The longest wait for a manifest or a token, and for each next piece of a layer.
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

/// A client of OCI registries. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    plain_hosts: PlainHosts,
    credentials: Credentials,
    max_manifest_bytes: u64,
    max_module_bytes: u64,
    timeout: Duration,
}

/// The longest that one blob may take, however steadily it trickles.
const LONGEST_BLOB: Duration = Duration::from_mins(10);

impl Client {
    /// A client with these options. The process must have installed a cryptography provider of rustls.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let plain_hosts = PlainHosts::new(options.insecure_registries);
        Ok(Self {
            inner: Arc::new(Inner {
                http: transport::client(plain_hosts.clone(), options.timeout)?,
                plain_hosts,
                credentials: Credentials::new(options.docker_config),
                max_manifest_bytes: options.max_manifest_bytes,
                max_module_bytes: options.max_module_bytes,
                timeout: options.timeout,
            }),
        })
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.inner.http
    }

    pub(crate) fn plain_hosts(&self) -> &PlainHosts {
        &self.inner.plain_hosts
    }

    pub(crate) fn max_module_bytes(&self) -> u64 {
        self.inner.max_module_bytes
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    pub(crate) fn credential(&self, reference: &Reference) -> Result<Credential, Error> {
        self.inner.credentials.of(reference)
    }

    pub(crate) fn is_plain(&self, reference: &Reference) -> bool {
        self.plain_hosts().contain(reference.host())
    }

    pub(crate) fn url(&self, reference: &Reference, path: &str) -> String {
        let scheme = if self.is_plain(reference) { "http" } else { "https" };
        format!("{scheme}://{}{path}", reference.host())
    }

    /// A manifest's bytes and media type; where the reference names a digest, checked against it.
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        authorization: &RegistryAuth,
    ) -> Result<(Bytes, String), Error> {
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let path = format!("/v2/{}/manifests/{name}", reference.repository());
        let response = self.get(reference, authorization, &path, manifest::ACCEPT, self.timeout()).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let cap = self.inner.max_manifest_bytes;
        match transport::body(reference, response, cap, reference.digest(), |_, _| {}).await? {
            Body::Whole(bytes) => Ok((bytes, media_type)),
            Body::Other => Err(Error::DigestMismatch { what: name.to_owned() }),
            Body::TooLarge => {
                let why = format!("its manifest is larger than the {} KiB that are taken", cap >> 10);
                Err(Error::unsupported(reference, why))
            }
        }
    }

    /// A layer's bytes, checked against its digest.
    pub(crate) async fn layer(
        &self,
        reference: &Reference,
        authorization: &RegistryAuth,
        layer: &Descriptor,
        progress: impl Fn(u64, Option<u64>),
    ) -> Result<Bytes, Error> {
        let path = format!("/v2/{}/blobs/{}", reference.repository(), layer.digest);
        let response = self.get(reference, authorization, &path, "*/*", LONGEST_BLOB).await?;
        match transport::body(reference, response, layer.size, Some(&layer.digest), progress).await? {
            Body::Whole(bytes) => Ok(bytes),
            // More bytes than the manifest says are other bytes than the digest is of.
            Body::Other | Body::TooLarge => Err(Error::DigestMismatch { what: layer.digest.clone() }),
        }
    }

    async fn get(
        &self,
        reference: &Reference,
        authorization: &RegistryAuth,
        path: &str,
        accept: &str,
        within: Duration,
    ) -> Result<Response, Error> {
        let send = async |authorization: &RegistryAuth| {
            let request = self.http().get(self.url(reference, path)).header(ACCEPT, accept);
            let request = match authorization {
                RegistryAuth::Anonymous => request,
                RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
                RegistryAuth::Bearer(token) => request.bearer_auth(token),
            };
            transport::send(reference, request, within).await
        };
        let mut response = send(authorization).await?;
        // A registry that gives some images to everybody asks only when it comes to one that it does not.
        if response.status() == StatusCode::UNAUTHORIZED && *authorization == RegistryAuth::Anonymous {
            response = send(&self.answer(reference, Access::Pull, &response).await?).await?;
        }
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(transport::refusal(reference, &response))
        }
    }
}
