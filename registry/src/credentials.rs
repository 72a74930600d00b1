//! Registry credentials from a Docker `config.json`, reloaded whenever the file changes.
//!
//! Supports `auths` entries with `auth`, with `username` and `password`, or with `registrytoken`. Ignores the
//! credential helpers of `credsStore` and `credHelpers`: an agent runs no program that a file names.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use crate::Error;

/// Size limit of config.json, in bytes.
const LARGEST: u64 = 1 << 20;

pub(crate) struct Credentials {
    file: Option<PathBuf>,
    read: Mutex<Option<(SystemTime, HashMap<String, RegistryAuth>)>>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self { file, read: Mutex::new(None) }
    }

    /// Returns the credentials for a registry; anonymous without an entry for it.
    pub(crate) fn of(&self, registry: &str) -> Result<RegistryAuth, Error> {
        let Some(file) = &self.file else { return Ok(RegistryAuth::Anonymous) };
        // The error omits the path, since it may reach a condition that other people read.
        let refuse = |error: std::io::Error| Error::Credentials(error.kind().to_string());
        let metadata = std::fs::metadata(file).map_err(refuse)?;
        let modified = metadata.modified().map_err(refuse)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref().is_none_or(|(when, _)| *when != modified) {
            if metadata.len() > LARGEST {
                return Err(Error::Credentials("it is larger than 1 MiB".to_owned()));
            }
            *read = Some((modified, parse(&std::fs::read(file).map_err(refuse)?)?));
        }
        let known = read.as_ref().and_then(|(_, auths)| auths.get(registry)).cloned();
        Ok(known.unwrap_or(RegistryAuth::Anonymous))
    }
}

fn parse(bytes: &[u8]) -> Result<HashMap<String, RegistryAuth>, Error> {
    // Only the line number: serde_json's message may quote a secret.
    let config: Config = serde_json::from_slice(bytes).map_err(|error| {
        Error::Credentials(format!("line {} does not have the format of Docker", error.line()))
    })?;
    config
        .auths
        .into_iter()
        .filter_map(|(host, entry)| {
            let host = host_of(&host).to_owned();
            entry.auth(&host).transpose().map(|auth| auth.map(|auth| (host, auth)))
        })
        .collect()
}

impl Entry {
    fn auth(self, host: &str) -> Result<Option<RegistryAuth>, Error> {
        if let Some(token) = self.registrytoken.filter(|token| !token.is_empty()) {
            return Ok(Some(RegistryAuth::Bearer(token)));
        }
        if let (Some(username), Some(password)) = (self.username, self.password) {
            return Ok(Some(RegistryAuth::Basic(username, password)));
        }
        let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) else { return Ok(None) };
        let decoded =
            BASE64_STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
        let (username, password) = pair
            .ok_or_else(|| Error::Credentials(format!("`auth` of {host} is not base64 of user:password")))?;
        Ok(Some(RegistryAuth::Basic(username.to_owned(), password.trim_end_matches('\0').to_owned())))
    }
}

/// Extracts the registry from a key of `auths`: Docker writes hosts, and URLs of their old APIs.
fn host_of(key: &str) -> &str {
    let host = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_auths_entry_is_parsed() {
        let auths = parse(
            br#"{"auths": {
                "r.example.com:5000": {"auth": "dXNlcjpwYTpzcw=="},
                "https://index.docker.io/v1/": {"username": "u", "password": "p"},
                "https://token.example.com/v2/": {"registrytoken": "t"},
                "helper.example.com": {}
            }, "credsStore": "desktop"}"#,
        )
        .unwrap();
        assert_eq!(auths["r.example.com:5000"], RegistryAuth::Basic("user".into(), "pa:ss".into()));
        assert_eq!(auths["docker.io"], RegistryAuth::Basic("u".into(), "p".into()));
        assert_eq!(auths["token.example.com"], RegistryAuth::Bearer("t".into()));
        assert!(!auths.contains_key("helper.example.com"));
    }

    #[test]
    fn an_invalid_file_is_refused_without_quoting_its_secrets() {
        for broken in
            [&br#"{"auths": {"r": {"auth": "c2VjcmV0"}}}"#[..], b"{\"auths\": \"c2VjcmV0\"}", b"c2VjcmV0"]
        {
            let error = parse(broken).unwrap_err().to_string();
            assert!(!error.contains("c2VjcmV0") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_changed_file_is_reloaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let credentials = Credentials::new(Some(file.clone()));
        assert!(credentials.of("r").is_err());
        std::fs::write(&file, r#"{"auths": {"r": {"registrytoken": "1"}}}"#).unwrap();
        assert_eq!(credentials.of("r").unwrap(), RegistryAuth::Bearer("1".into()));
        std::fs::write(&file, r#"{"auths": {"r": {"registrytoken": "2"}}}"#).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::open(&file).unwrap().set_modified(later).unwrap();
        assert_eq!(credentials.of("r").unwrap(), RegistryAuth::Bearer("2".into()));
        assert_eq!(credentials.of("other").unwrap(), RegistryAuth::Anonymous);
    }
}
