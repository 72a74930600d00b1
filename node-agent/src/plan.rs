//! The plan: which revisions to start and to stop, from the desired and the running ones. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::desired::{Desired, DesiredRevision, Key};

/// The difference between the desired and the running revisions.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Revisions to load.
    pub(crate) start: Vec<(Key, Arc<DesiredRevision>)>,
    /// Revisions to stop, loaded or still loading. One that is in `start` too is replaced.
    pub(crate) stop: Vec<Key>,
}

/// Plans the changes that make the running revisions the desired ones.
pub(crate) fn plan(desired: &Desired, running: &BTreeMap<Key, Arc<DesiredRevision>>) -> Plan {
    let is_new = |(key, revision): &(&Key, &Arc<DesiredRevision>)| running.get(*key) != Some(*revision);
    let is_gone = |(key, revision): &(&Key, &Arc<DesiredRevision>)| desired.get(*key) != Some(*revision);
    Plan {
        start: desired
            .iter()
            .filter(is_new)
            .map(|(key, revision)| (key.clone(), Arc::clone(revision)))
            .collect(),
        stop: running.iter().filter(is_gone).map(|(key, _)| key.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::fixtures::{key, revision};

    fn revisions(of: &[(&str, i64)]) -> BTreeMap<Key, Arc<DesiredRevision>> {
        of.iter().map(|&(name, number)| (key("text", name), Arc::new(revision(name, number)))).collect()
    }

    fn names(desired: &[(&str, i64)], running: &[(&str, i64)]) -> (Vec<String>, Vec<String>) {
        let Plan { start, stop } = plan(&revisions(desired), &revisions(running));
        (
            start.into_iter().map(|(key, _)| key.revision).collect(),
            stop.into_iter().map(|key| key.revision).collect(),
        )
    }

    #[test]
    fn new_revisions_start_undesired_ones_stop_and_others_go_on() {
        let none: Vec<String> = Vec::new();
        assert_eq!(names(&[("a", 1)], &[]), (vec!["a".to_owned()], none.clone()));
        assert_eq!(names(&[("a", 1)], &[("a", 1)]), (none.clone(), none.clone()));
        assert_eq!(names(&[], &[("a", 1)]), (none.clone(), vec!["a".to_owned()]));
        assert_eq!(names(&[("a", 1), ("b", 2)], &[("a", 1)]), (vec!["b".to_owned()], none));
    }

    #[test]
    fn a_revision_that_changed_under_its_name_is_replaced() {
        assert_eq!(names(&[("a", 2)], &[("a", 1)]), (vec!["a".to_owned()], vec!["a".to_owned()]));
    }
}
