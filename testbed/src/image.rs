//! Builds images from programs of this machine, without a builder and a base image.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{Registry, process::built, registry::digest};

/// The tag of the images: the programs' version, which the chart uses too.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The user of the images: a number, by which Kubernetes sees that it is not root.
const NONROOT: &str = "65532";
/// The root certificates, where programs look for them and Debian's `ca-certificates` installs them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Pushes the operator and the agent under the names of the chart; returns their references.
pub async fn push_images(registry: &Registry) -> Result<Vec<String>> {
    let mut pushed = Vec::new();
    for name in ["samovar-operator", "samovar-agent"] {
        let files = vec![(AUTHORITIES, AUTHORITIES.into())];
        let image = Image { program: built(name)?, libraries: true, files, user: NONROOT };
        pushed.push(image.push(registry, &format!("samovar-dev/{name}"), VERSION).await?);
    }
    Ok(pushed)
}

/// Pushes [`CLIENT`].
pub async fn push_client(registry: &Registry) -> Result<()> {
    let files = vec![("/usr/bin/sh", "/bin/sh".into()), ("/usr/bin/curl", "/usr/bin/curl".into())];
    let client = Image { program: "/usr/bin/sleep".into(), libraries: true, files, user: NONROOT };
    client.push(registry, CLIENT, VERSION).await.map(drop)
}

/// The repository of an image with a shell and curl, for Pods that call plugins.
pub const CLIENT: &str = "bed/client";

/// An image of one layer.
pub struct Image<'a> {
    /// The program that it runs, at the root of the image under its own name.
    pub program: PathBuf,
    /// Adds the shared libraries of its programs.
    pub libraries: bool,
    /// More files: the path of each in the image, and on this machine.
    pub files: Vec<(&'a str, PathBuf)>,
    /// The user that it runs as: a number.
    pub user: &'a str,
}

impl Image<'_> {
    /// Builds and pushes it; returns its reference.
    pub async fn push(&self, registry: &Registry, repository: &str, tag: &str) -> Result<String> {
        let layer = self.layer()?;
        let name = self.program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {
                "User": format!("{0}:{0}", self.user), "Entrypoint": [format!("/{name}")], "WorkingDir": "/",
                "Env": ["PATH=/usr/bin:/"],
                "Labels": { "org.opencontainers.image.title": name, "org.opencontainers.image.version": tag },
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let layer = registry.push_blob(repository, "application/vnd.oci.image.layer.v1.tar", &layer).await?;
        let config = serde_json::to_vec(&config)?;
        let config =
            registry.push_blob(repository, "application/vnd.oci.image.config.v1+json", &config).await?;
        registry.push_manifest(repository, tag, &config, &[layer]).await?;
        Ok(format!("{}/{repository}:{tag}", registry.address()))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let name = self.program.file_name().context("a program has a name")?;
        let mut files: BTreeSet<(PathBuf, PathBuf)> = BTreeSet::from([(name.into(), self.program.clone())]);
        for (inside, outside) in &self.files {
            files.insert((inside.trim_start_matches('/').into(), outside.clone()));
        }
        if self.libraries {
            for (_, outside) in files.clone() {
                files.extend(libraries(&outside)?);
            }
        }
        let mut layer = tar::Builder::new(Vec::new());
        for (inside, outside) in files {
            let bytes =
                fs::read(&outside).with_context(|| format!("{} cannot be read", outside.display()))?;
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            layer.append_data(&mut header, inside, bytes.as_slice())?;
        }
        Ok(layer.into_inner()?)
    }
}

/// The shared libraries of a program, and its loader: the path of each in the image, and on this machine.
fn libraries(program: &PathBuf) -> Result<Vec<(PathBuf, PathBuf)>> {
    let output = Command::new("ldd").arg(program).output().context("ldd cannot be started")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!listed.contains("not found"), "{} lacks a library:\n{listed}", program.display());
    // `libm.so.6 => /lib/libm.so.6 (0x..)`, or the loader's path alone. A static program, or no program, has none.
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(paths.map(|path| (path.trim_start_matches('/').into(), path.into())).collect())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
