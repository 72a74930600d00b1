//! Revisions: immutable versions of a plugin's template, kept in `ControllerRevision`s.

use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::runtime::RawExtension};
use kube::ResourceExt as _;
use samovar_crds::PluginTemplate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One immutable version of a plugin's template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revision {
    pub(crate) name: String,
    pub(crate) number: i64,
    pub(crate) data: RevisionData,
}

/// The data of a `ControllerRevision`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct RevisionData {
    /// The template as its author wrote it, with the tag.
    pub(crate) template: PluginTemplate,
    /// The image, pinned by digest.
    pub(crate) image: String,
    /// The version of the contents, if the template names any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) contents: Option<String>,
}

impl Revision {
    /// Parses a `ControllerRevision`; `None` if its data has another form.
    pub(crate) fn read(revision: &ControllerRevision) -> Option<Self> {
        let data = serde_json::from_value(revision.data.as_ref()?.0.clone()).ok()?;
        Some(Self { name: revision.name_any(), number: revision.revision, data })
    }

    /// The revision with `data`: the newest if it has that data, else one with the next number. The same data always
    /// has the same name, so that a rollback finds the old revision and gives it the next number.
    pub(crate) fn next(plugin: &str, data: RevisionData, newest: Option<Self>) -> Self {
        let identity = serde_json::to_vec(&data).unwrap_or_default();
        let hash = &hex::encode(Sha256::digest(identity))[..10];
        let name = format!("{plugin}-{hash}");
        match newest {
            Some(newest) if newest.name == name => newest,
            newest => Self { name, number: newest.map_or(1, |newest| newest.number + 1), data },
        }
    }

    /// The template with its image pinned, as agents run it.
    pub(crate) fn pinned(&self) -> PluginTemplate {
        PluginTemplate { image: self.data.image.clone(), ..self.data.template.clone() }
    }

    /// The data for its `ControllerRevision`.
    pub(crate) fn raw(&self) -> RawExtension {
        RawExtension(serde_json::to_value(&self.data).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(image: &str) -> RevisionData {
        let template = serde_json::from_value(serde_json::json!({ "image": image })).unwrap();
        RevisionData { template, image: format!("{image}@sha256:1"), contents: None }
    }

    #[test]
    fn a_rollback_keeps_the_revisions_name_and_takes_the_next_number() {
        let first = Revision::next("text", data("a"), None);
        let second = Revision::next("text", data("b"), Some(first.clone()));
        assert_eq!((first.number, second.number), (1, 2));
        assert_ne!(first.name, second.name);
        let back = Revision::next("text", data("a"), Some(second));
        assert_eq!((back.name.as_str(), back.number), (first.name.as_str(), 3));
        assert_eq!(Revision::next("text", data("a"), Some(back.clone())), back);
    }
}
