//! An OCI registry (CNCF distribution) with its data in a folder, and a client that pushes to it.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, Response, header};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    Process,
    process::{bed_program, free_port},
    scratch,
};

const START: Duration = Duration::from_secs(20);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A running registry, without authentication, over plain HTTP.
pub struct Registry {
    address: String,
    /// The data and the process of a registry that the test started.
    own: Option<(PathBuf, Process)>,
    http: Client,
}

/// The descriptor of a blob in a manifest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of its bytes.
    pub media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The number of its bytes.
    pub size: usize,
}

impl Registry {
    /// Starts an empty registry.
    pub async fn start() -> Result<Self> {
        Self::serve(format!("127.0.0.1:{}", free_port()?), |command| command).await
    }

    /// Starts one in a network namespace: `inside` moves a command there.
    pub(crate) async fn start_at(host: &str, inside: impl FnOnce(&Command) -> Command) -> Result<Self> {
        Self::serve(format!("{host}:5000"), |command| inside(&command)).await
    }

    async fn serve(address: String, inside: impl FnOnce(Command) -> Command) -> Result<Self> {
        let folder = scratch::folder("registry")?;
        let config = json!({
            "version": 0.1,
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": folder }, "delete": { "enabled": true } },
            "http": { "addr": address },
        });
        // JSON is YAML.
        let path = folder.join("config.yaml");
        fs::write(&path, serde_json::to_vec(&config)?)?;
        let mut command = bed_program("registry")?;
        command.arg("serve").arg(path).env("OTEL_TRACES_EXPORTER", "none");
        let process = Process::quietly("registry", inside(command))?;
        let mut registry = Self { own: Some((folder, process)), ..Self::at(address)? };
        registry.is_up().await?;
        Ok(registry)
    }

    /// A registry that runs already: `host:port`, without TLS.
    pub fn at(address: String) -> Result<Self> {
        // reqwest needs a default crypto provider. Only the first one is installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // No connection is kept: it would outlive the runtime of its test.
        let http = Client::builder().pool_max_idle_per_host(0).build()?;
        Ok(Self { address, own: None, http })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Stops it, so that connections are refused.
    pub fn stop(&mut self) {
        if let Some((_, process)) = &mut self.own {
            process.kill();
        }
    }

    /// Starts it again at the same address, with the same data.
    pub async fn start_again(&mut self) -> Result<()> {
        if let Some((_, process)) = &mut self.own {
            process.start_again()?;
        }
        self.is_up().await
    }

    /// True after it was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.own.as_ref().is_some_and(|(_, process)| process.is_stopped())
    }

    /// Starts it if it was stopped.
    pub(crate) async fn restore(&mut self) -> Result<()> {
        if self.is_stopped() { self.start_again().await } else { Ok(()) }
    }

    async fn is_up(&mut self) -> Result<()> {
        let Some((_, process)) = &mut self.own else { return Ok(()) };
        process.answers(&format!("http://{}/v2/", self.address), START).await
    }

    /// Pushes a module as a CNCF wasm artifact, and returns the reference to put into a manifest.
    pub async fn push(&self, repository: &str, tag: &str, wasm: &[u8]) -> Result<String> {
        let config = json!({ "architecture": "wasm", "os": "wasip2", "layerDigests": [digest(wasm)] });
        let config = serde_json::to_vec(&config)?;
        let config = self.push_blob(repository, "application/vnd.wasm.config.v0+json", &config).await?;
        let layer = self.push_blob(repository, "application/wasm", wasm).await?;
        self.push_manifest(repository, tag, &config, &[layer]).await?;
        Ok(format!("{}/{repository}:{tag}", self.address))
    }

    /// Uploads one blob.
    pub async fn push_blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = digest(bytes);
        let uploads = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = succeeded(self.http.post(uploads).send().await?).await?;
        let location = begun.headers().get(header::LOCATION).context("an upload has no Location")?;
        let location = location.to_str()?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let upload = self.http.put(format!("{location}{separator}digest={digest}"));
        let upload = upload.header(header::CONTENT_TYPE, "application/octet-stream").body(bytes.to_vec());
        succeeded(upload.send().await?).await?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() })
    }

    /// Uploads the manifest of an image, and returns its digest.
    pub async fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<String> {
        let manifest: Value =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let body = serde_json::to_vec(&manifest)?;
        let digest = digest(&body);
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        succeeded(self.http.put(url).header(header::CONTENT_TYPE, MANIFEST).body(body).send().await?).await?;
        Ok(digest)
    }

    /// Corrupts a stored blob, so that its bytes no longer match `digest`.
    pub fn corrupt(&self, digest: &str) -> Result<()> {
        let hex = digest.strip_prefix("sha256:").context("a digest starts with `sha256:`")?;
        let blob = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let (folder, _) = self.own.as_ref().context("the registry is not this test's own")?;
        let path = folder.join(blob);
        let mut bytes = fs::read(&path).context("the registry has no such blob")?;
        let last = bytes.last_mut().context("an empty blob cannot be corrupted")?;
        *last ^= 1;
        Ok(fs::write(path, bytes)?)
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

async fn succeeded(answer: Response) -> Result<Response> {
    let status = answer.status();
    if !status.is_success() {
        bail!("the registry answered {status}: {}", answer.text().await?);
    }
    Ok(answer)
}
