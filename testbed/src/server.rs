//! `samovar run` as a process, and calls to it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    Process, eventually, free_port,
    process::{LOOK, built},
    scratch,
};

/// The deadline for what takes a moment, on a machine that runs many tests at once.
pub const SOON: Duration = Duration::from_secs(30);

/// A running `samovar run`, and the folder of its files.
pub struct Server {
    /// Its manifests and modules.
    pub folder: PathBuf,
    /// The process.
    pub process: Process,
    /// The URL under which it answers calls.
    pub url: String,
    ops: String,
    client: reqwest::Client,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    /// Its HTTP status.
    pub status: u16,
    /// Its Retry-After header.
    pub retry_after: Option<String>,
    /// The fuel that the call used, if its plugin counts it.
    pub fuel: Option<u64>,
    /// Its body.
    pub body: String,
}

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A folder of this test's own.
pub fn folder(name: &str) -> Result<PathBuf> {
    let folder = scratch().join(format!("standalone-{name}"));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl Server {
    /// Serves `folder`; returns once every plugin is ready or has failed.
    pub async fn start(folder: PathBuf) -> Result<Self> {
        Self::start_with(folder, &[]).await
    }

    /// The same, with more flags.
    pub async fn start_with(folder: PathBuf, flags: &[&str]) -> Result<Self> {
        Self::start_by(folder, flags, |arguments| Process::samovar("samovar", arguments, &[])).await
    }

    /// The same, with these root certificates in place of the machine's.
    pub async fn start_trusting(folder: PathBuf, certificates: &Path) -> Result<Self> {
        let environment = [("SSL_CERT_FILE", certificates)];
        Self::start_by(folder, &[], |arguments| Process::samovar("samovar", arguments, &environment)).await
    }

    /// The same, with its state on a disk of `kib` KiB in a mount namespace of its own.
    pub async fn start_on_a_small_disk(folder: PathBuf, kib: u32) -> Result<Self> {
        Self::start_on(folder, format!("mount -t tmpfs -o size={kib}k tmpfs \"$0\"")).await
    }

    /// The same, with the state that an earlier start left, on a read-only disk.
    pub async fn start_on_a_read_only_disk(folder: PathBuf) -> Result<Self> {
        Self::start_on(folder, "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"".to_owned())
            .await
    }

    /// The same, after a shell has run `mount` for the state directory, `$0`.
    async fn start_on(folder: PathBuf, mount: String) -> Result<Self> {
        let state = folder.join("state");
        std::fs::create_dir_all(&state)?;
        let shell = mount + " && exec \"$@\"";
        Self::start_by(folder, &[], |arguments| {
            let mut command = std::process::Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", &shell]).arg(state);
            command.arg(built("samovar")?).args(arguments);
            Process::start("samovar", command)
        })
        .await
    }

    async fn start_by(
        folder: PathBuf,
        flags: &[&str],
        start: impl FnOnce(Vec<String>) -> Result<Process>,
    ) -> Result<Self> {
        let (listen, ops) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let state = folder.join("state");
        let own = [
            "run".to_owned(),
            folder.display().to_string(),
            format!("--listen={listen}"),
            format!("--ops-listen={ops}"),
            format!("--state-dir={}", state.display()),
        ];
        let mut process = start(own.into_iter().chain(flags.iter().map(|&flag| flag.to_owned())).collect())?;
        let ops = format!("http://{ops}");
        process.answers(&format!("{ops}/readyz"), SOON).await?;
        Ok(Self { folder, process, url: format!("http://{listen}"), ops, client: reqwest::Client::new() })
    }

    /// The value of a metric that has no labels.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let metrics = reqwest::get(format!("{}/metrics", self.ops)).await?.text().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no metric {name} in:\n{metrics}"))?.parse()?)
    }

    /// The resident memory of the process, in KiB.
    pub fn resident(&self) -> Result<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id().unwrap_or_default()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
    }

    /// Calls a function of a plugin in the namespace `default`.
    pub async fn call(&self, plugin: &str, function: &str, body: impl Into<reqwest::Body>) -> Result<Answer> {
        let answer = self.ask(plugin, function, body).await?;
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        Ok(Answer {
            status: answer.status().as_u16(),
            retry_after: header("retry-after").map(str::to_owned),
            fuel: header("samovar-fuel").and_then(|fuel| fuel.parse().ok()),
            body: answer.text().await?,
        })
    }

    /// The same; returns once the head of the response has arrived.
    pub async fn ask(
        &self,
        plugin: &str,
        function: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<reqwest::Response> {
        let url = format!("{}/v1/default/{plugin}/{function}", self.url);
        let request = self.client.post(url).header("content-type", "application/json").body(body);
        Ok(request.send().await?)
    }

    /// Waits until a call answers `wanted`.
    pub async fn answers(
        &self,
        plugin: &str,
        function: &str,
        body: &'static str,
        wanted: &str,
    ) -> Result<()> {
        eventually(SOON, LOOK, async || {
            let answer = self.call(plugin, function, body).await?;
            let is_so = answer.status == 200 && answer.body == wanted;
            ensure!(is_so, "{plugin}/{function} does not answer {wanted}: {answer:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the log contains `text`.
    pub async fn logs(&self, text: &str) -> Result<()> {
        eventually(SOON, LOOK, async || {
            let log = self.process.log();
            ensure!(log.contains(text), "the log does not contain {text}:\n{log}");
            Ok(())
        })
        .await
    }
}

impl Answer {
    /// The last part of the problem's type.
    pub fn problem(&self) -> String {
        problem(&self.body)
    }
}

/// The last part of a problem's type; empty if the body is no problem object.
pub fn problem(body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let type_ = problem["type"].as_str().unwrap_or_default();
    type_.strip_prefix("https://samovar.dev/problems/").unwrap_or_default().to_owned()
}

/// A manifest of one plugin, from a module file.
pub fn plugin(name: &str, module: &str, more: &str) -> String {
    format!(
        "apiVersion: samovar.dev/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: {name} }}\n\
         spec: {{ image: 'file:{module}'{}{more} }}\n",
        if more.is_empty() { "" } else { ", " }
    )
}
