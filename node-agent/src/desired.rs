//! The desired state: the one input of an agent, the same from a cluster and from `samovar run`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use samovar_crds::{Contents, PluginTemplate};
use samovar_runtime::ModuleDigest;
use serde::{Deserialize, Serialize};

/// The revisions to run on this agent. Immutable: a change is another snapshot.
pub type Desired = BTreeMap<Key, Arc<DesiredRevision>>;

/// One revision of one plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Key {
    /// The plugin's namespace.
    pub namespace: String,
    /// The plugin's name.
    pub plugin: String,
    /// The revision's name. In a cluster the assignment's, which contains the revision and this agent.
    pub revision: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.plugin, self.revision)
    }
}

/// The specification of one revision.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct DesiredRevision {
    /// The revision's name, as callers see it.
    pub revision: String,
    /// Of two revisions that are ready, the one with the higher number serves.
    pub number: i64,
    /// The source of its module.
    pub source: Source,
    /// Its functions, limits and instances.
    pub template: PluginTemplate,
    /// The contents of its policy's ConfigMaps and Secrets, if they are known here. In a cluster the agent requests
    /// them from the operator, and they are never part of the checkpoint on disk.
    #[serde(skip)]
    pub contents: Option<Arc<Contents>>,
}

/// The source of a module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Source {
    /// An image in a registry, pinned by digest.
    Image(String),
    /// The bytes themselves. Only `samovar run` uses it.
    #[serde(skip)]
    Module {
        /// The digest of its bytes.
        digest: ModuleDigest,
        /// Its bytes, in the binary format.
        bytes: Bytes,
    },
}

/// Revisions for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use super::{DesiredRevision, Key, Source};

    /// A revision's key, in the namespace `demo`.
    pub(crate) fn key(plugin: &str, revision: &str) -> Key {
        Key { namespace: "demo".into(), plugin: plugin.into(), revision: revision.into() }
    }

    /// A revision of an image, with the defaults of everything else.
    pub(crate) fn revision(name: &str, number: i64) -> DesiredRevision {
        DesiredRevision {
            revision: name.into(),
            number,
            source: Source::Image("r/text@sha256:1".into()),
            template: serde_json::from_str(r#"{"image": "r/text:1"}"#).unwrap(),
            contents: None,
        }
    }
}
