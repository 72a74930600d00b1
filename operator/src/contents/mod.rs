//! Contents: the versions of the ConfigMaps and Secrets that plugins run with, and the server for agents.
//!
//! No object of Samovar holds contents. A revision and its assignments hold a keyed hash of them, and an agent that has
//! an assignment requests the contents with that hash.

mod certificates;
mod keys;
mod objects;
mod server;
mod tokens;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kube::{Client, ResourceExt as _};
use ring::hmac;
use samovar_crds::{Contents, Missing, SecurityPolicy, WasmPlugin};

pub(crate) use keys::Keys;
pub(crate) use server::Server;

/// The version of the contents that a plugin is to run with.
#[derive(Debug)]
pub(crate) enum ContentsVersion {
    /// The plugin names no ConfigMap and no Secret.
    None,
    /// A keyed hash of their values.
    Known(String),
    /// They are missing or unreadable, for a reason that a person can fix.
    Unavailable(Unavailable),
}

/// The reason why the version of contents is unknown, which a person can fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("{0}")]
    Missing(#[from] Missing),
    #[error("the operator may not read the ConfigMaps and Secrets of this namespace: check its Role")]
    Forbidden,
    #[error("the operator has no key yet to hash the ConfigMaps and Secrets with: see its log")]
    NoKey,
}

/// A ConfigMap or a Secret could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the plugin's ConfigMaps and Secrets: {0}")]
pub(crate) struct ReadError(#[source] kube::Error);

/// Computes the versions of plugins' contents, and caches them until an object changes.
pub(crate) struct Versions {
    keys: Keys,
    /// The number of changes of objects that plugins name.
    changes: AtomicU64,
    /// The last version of each plugin, by its UID.
    cache: Mutex<HashMap<String, Cached>>,
}

struct Cached {
    /// The number of changes before the objects were read.
    changes: u64,
    policy: SecurityPolicy,
    version: String,
}

/// Plugins in the cache. Beyond it the cache is cleared.
const CACHE_ENTRIES: usize = 10_000;

impl Versions {
    pub(crate) fn new(keys: Keys) -> Self {
        Self { keys, changes: AtomicU64::new(0), cache: Mutex::default() }
    }

    /// Invalidates the cache: an object that a plugin names has changed, or may have.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The version of the contents that the plugin's policy names.
    pub(crate) async fn of(
        &self,
        client: &Client,
        plugin: &WasmPlugin,
    ) -> Result<ContentsVersion, ReadError> {
        let Some(policy) = &plugin.spec.template.security_policy else { return Ok(ContentsVersion::None) };
        let named = policy.objects();
        if named.is_empty() {
            return Ok(ContentsVersion::None);
        }
        let Some(key) = self.keys.digest() else {
            return Ok(ContentsVersion::Unavailable(Unavailable::NoKey));
        };
        // Loaded before the read, so that a change during the read makes its result stale.
        let changes = self.changes.load(Ordering::Acquire);
        let uid = plugin.uid().unwrap_or_default();
        if let Some(cached) = self.cached(&uid, policy, changes) {
            return Ok(ContentsVersion::Known(cached));
        }
        let namespace = plugin.namespace().unwrap_or_default();
        let objects = match objects::read(client, &namespace, named).await {
            Ok(objects) => objects,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Ok(ContentsVersion::Unavailable(Unavailable::Forbidden));
            }
            Err(error) => return Err(ReadError(error)),
        };
        let contents = match policy.contents(&objects) {
            Ok(contents) => contents,
            Err(missing) => return Ok(ContentsVersion::Unavailable(missing.into())),
        };
        let version = version(&key, &namespace, &plugin.name_any(), &contents);
        self.store(uid, Cached { changes, policy: policy.clone(), version: version.clone() });
        Ok(ContentsVersion::Known(version))
    }

    fn cached(&self, uid: &str, policy: &SecurityPolicy, changes: u64) -> Option<String> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.get(uid).filter(|cached| cached.changes == changes && cached.policy == *policy)?;
        Some(cached.version.clone())
    }

    fn store(&self, uid: String, cached: Cached) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(uid, cached);
    }
}

/// The version of contents: a keyed hash. Without the key it reveals nothing of them, not even that two plugins have
/// the same contents.
fn version(key: &Arc<hmac::Key>, namespace: &str, plugin: &str, contents: &Contents) -> String {
    let message = serde_json::to_vec(&(namespace, plugin, contents)).unwrap_or_default();
    hex::encode(&hmac::sign(key, &message).as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_differ_by_content_by_plugin_and_by_key() {
        let key = |byte| Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]));
        let contents = |value: &str| Contents {
            env: [("TOKEN".to_owned(), value.to_owned())].into(),
            ..Contents::default()
        };
        let first = version(&key(1), "demo", "text", &contents("a"));
        assert_eq!(first, version(&key(1), "demo", "text", &contents("a")));
        for other in [
            version(&key(1), "demo", "text", &contents("b")),
            version(&key(1), "demo", "other", &contents("a")),
            version(&key(1), "other", "text", &contents("a")),
            version(&key(2), "demo", "text", &contents("a")),
        ] {
            assert_ne!(first, other);
        }
    }
}
