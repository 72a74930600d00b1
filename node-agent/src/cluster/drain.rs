//! Drain: a removed plugin is served on until its EndpointSlices have stopped routing here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::desired::{Desired, DesiredRevision, Key};

/// Copies `desired` to `served`, but removes a plugin only `delay` after it is gone from `desired`. A revision that is
/// replaced by another of its plugin is removed at once, since calls have a successor. Never ends.
pub(crate) async fn follow(
    mut desired: watch::Receiver<Desired>,
    served: watch::Sender<Desired>,
    delay: Duration,
) {
    let mut draining = Draining { delay, until: BTreeMap::new() };
    loop {
        let latest = desired.borrow_and_update().clone();
        let all = draining.apply(latest, &served.borrow(), Instant::now());
        served.send_if_modified(|served| {
            let changed = *served != all;
            *served = all;
            changed
        });
        let next = draining.next();
        let expires = async {
            match next {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = desired.changed() => if changed.is_err() {
                // The sender is gone: the served state stays as it is.
                return std::future::pending().await;
            },
            () = expires => {}
        }
    }
}

/// Revisions that are gone from the desired state and still served, each until an instant.
struct Draining {
    delay: Duration,
    until: BTreeMap<Key, (Arc<DesiredRevision>, Instant)>,
}

impl Draining {
    /// The revisions to serve at `now`, after `served` was.
    fn apply(&mut self, mut desired: Desired, served: &Desired, now: Instant) -> Desired {
        for (key, revision) in served.iter().filter(|(key, _)| !desired.contains_key(*key)) {
            self.until.entry(key.clone()).or_insert_with(|| (Arc::clone(revision), now + self.delay));
        }
        let is_replaced = |gone: &Key| {
            desired.keys().any(|key| (&key.namespace, &key.plugin) == (&gone.namespace, &gone.plugin))
        };
        self.until.retain(|key, (_, until)| *until > now && !is_replaced(key));
        desired.extend(self.until.iter().map(|(key, (revision, _))| (key.clone(), Arc::clone(revision))));
        desired
    }

    /// The instant at which the next revision is removed.
    fn next(&self) -> Option<Instant> {
        self.until.values().map(|(_, until)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::fixtures::{key, revision};

    const DELAY: Duration = Duration::from_secs(5);

    fn desired(of: &[(&str, &str)]) -> Desired {
        of.iter().map(|&(plugin, name)| (key(plugin, name), Arc::new(revision(name, 1)))).collect()
    }

    #[test]
    fn a_removed_plugin_is_served_for_the_delay_and_a_replaced_revision_is_not() {
        let mut draining = Draining { delay: DELAY, until: BTreeMap::new() };
        let both = desired(&[("add", "a-1"), ("text", "t-1")]);
        let removed = Instant::now();
        let served = draining.apply(desired(&[("text", "t-2")]), &both, removed);
        assert_eq!(served, desired(&[("add", "a-1"), ("text", "t-2")]));
        assert_eq!(draining.next(), Some(removed + DELAY));
        for (after, wanted) in
            [(DELAY / 2, desired(&[("add", "a-1"), ("text", "t-2")])), (DELAY, desired(&[("text", "t-2")]))]
        {
            let now = draining.apply(desired(&[("text", "t-2")]), &served, removed + after);
            assert_eq!(now, wanted, "{after:?} later");
        }
        assert_eq!(draining.next(), None);
    }

    #[test]
    fn a_plugin_that_comes_back_within_the_delay_was_never_removed() {
        let mut draining = Draining { delay: DELAY, until: BTreeMap::new() };
        let text = desired(&[("text", "t-1")]);
        let removed = Instant::now();
        assert_eq!(draining.apply(Desired::new(), &text, removed), text);
        assert_eq!(draining.apply(text.clone(), &text, removed + DELAY / 2), text);
        assert_eq!(draining.next(), None);
        assert_eq!(draining.apply(text.clone(), &text, removed + 2 * DELAY), text);
    }

    #[tokio::test]
    async fn what_is_served_follows_what_is_desired_and_is_reduced_after_the_delay() {
        let text = desired(&[("text", "t-1")]);
        let (sender, receiver) = watch::channel(text.clone());
        let (out, mut served) = watch::channel(text.clone());
        let delay = Duration::from_millis(50);
        tokio::spawn(follow(receiver, out, delay));
        let removed = Instant::now();
        sender.send_replace(Desired::new());
        tokio::time::timeout(Duration::from_secs(10), served.changed()).await.unwrap().unwrap();
        assert_eq!(*served.borrow_and_update(), Desired::new());
        assert!(removed.elapsed() >= delay);
    }
}
