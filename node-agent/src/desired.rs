//! What an agent is asked to run: the one input below which a cluster and `samovar run` do not differ.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use samovar_crds::{Contents, PluginTemplate};
use samovar_runtime::ModuleDigest;
use serde::{Deserialize, Serialize};

/// Everything that is to run here. Immutable: a change is another snapshot.
pub type Desired = BTreeMap<Key, Arc<DesiredRevision>>;

/// One revision of one plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Key {
    /// The plugin's namespace.
    pub namespace: String,
    /// The plugin's name.
    pub plugin: String,
    /// The revision's name. In a cluster, the assignment's: it says the revision and this agent.
    pub revision: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.plugin, self.revision)
    }
}

/// What one revision is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct DesiredRevision {
    /// The revision's name, as callers see it.
    pub revision: String,
    /// Of two revisions that are ready, the higher serves.
    pub number: i64,
    /// Where its module is.
    pub source: Source,
    /// Its functions, limits and instances.
    pub template: PluginTemplate,
    /// What its policy's ConfigMaps and Secrets hold, where that is known here. In a cluster the operator is asked for
    /// it: it is never part of what is kept on disk.
    #[serde(skip)]
    pub contents: Option<Arc<Contents>>,
}

/// Where a module is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Source {
    /// In a registry, pinned by digest.
    Image(String),
    /// Here already. Only `samovar run` says so.
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
