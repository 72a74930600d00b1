//! Builds the `ControllerRevisions`: the newest, those in use, and a bounded history.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt as _;
use samovar_crds::PluginAssignment;

use super::Owned;
use crate::revision::Revision;

/// Revisions kept for rollbacks, besides those in use: a Deployment's default.
const HISTORY: usize = 10;

pub(super) fn build(
    owned: &Owned<'_>,
    newest: Option<&Revision>,
    observed: &[Arc<ControllerRevision>],
    assignments: &[PluginAssignment],
) -> Vec<ControllerRevision> {
    let in_use: BTreeSet<&str> = assignments
        .iter()
        .map(|assignment| assignment.spec.revision.as_str())
        .chain(newest.map(|newest| newest.name.as_str()))
        .collect();
    let (used, mut history): (Vec<_>, Vec<_>) =
        observed.iter().partition(|revision| in_use.contains(revision.name_any().as_str()));
    history.sort_by_key(|revision| std::cmp::Reverse(revision.revision));
    history.truncate(HISTORY);
    let is_newest =
        |revision: &&Arc<ControllerRevision>| newest.is_some_and(|newest| newest.name == revision.name_any());
    let mut kept: Vec<_> = used
        .into_iter()
        .chain(history)
        .filter(|revision| !is_newest(revision))
        .map(|revision| ControllerRevision {
            metadata: owned.metadata(revision.name_any()),
            data: revision.data.clone(),
            revision: revision.revision,
        })
        .collect();
    kept.extend(newest.map(|newest| ControllerRevision {
        metadata: owned.metadata(newest.name.clone()),
        data: Some(newest.raw()),
        revision: newest.number,
    }));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fixtures::{assigned, placement, plugin, ready, revision};

    #[test]
    fn history_is_bounded_and_revisions_in_use_are_kept() {
        let owner = plugin();
        let owned = Owned { plugin: &owner };
        let observed: Vec<_> = (1..=20)
            .flat_map(|number| build(&owned, Some(&revision(&format!("text-{number}"), number)), &[], &[]))
            .map(Arc::new)
            .collect();
        let serving = assigned(&revision("text-1", 1), &placement(&["a"]), &ready());
        let newest = revision("text-21", 21);
        let mut kept: Vec<_> =
            build(&owned, Some(&newest), &observed, &serving).iter().map(|kept| kept.revision).collect();
        kept.sort_unstable();
        assert_eq!(kept, [1, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
    }
}
