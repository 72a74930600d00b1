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
    let mut leaving: BTreeMap<Key, (Arc<DesiredRevision>, Instant)> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let mut all = desired.borrow_and_update().clone();
        let is_replaced = |gone: &Key, all: &Desired| {
            all.keys().any(|key| (&key.namespace, &key.plugin) == (&gone.namespace, &gone.plugin))
        };
        for (key, revision) in served.borrow().iter().filter(|(key, _)| !all.contains_key(*key)) {
            leaving.entry(key.clone()).or_insert_with(|| (Arc::clone(revision), now + delay));
        }
        leaving.retain(|key, (_, until)| *until > now && !is_replaced(key, &all));
        all.extend(leaving.iter().map(|(key, (revision, _))| (key.clone(), Arc::clone(revision))));
        served.send_if_modified(|served| {
            let changed = *served != all;
            *served = all;
            changed
        });
        let next = leaving.values().map(|(_, until)| *until).min();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::fixtures::{key, revision};

    const DELAY: Duration = Duration::from_secs(5);

    fn desired(of: &[(&str, &str)]) -> Desired {
        of.iter().map(|&(plugin, name)| (key(plugin, name), Arc::new(revision(name, 1)))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_plugin_is_served_for_the_delay_and_a_replaced_revision_is_not() {
        let both = desired(&[("add", "a-1"), ("text", "t-1")]);
        let (sender, receiver) = watch::channel(both.clone());
        let (out, mut served) = watch::channel(both.clone());
        tokio::spawn(follow(receiver, out, DELAY));

        sender.send_replace(desired(&[("text", "t-2")]));
        served.changed().await.unwrap();
        assert_eq!(*served.borrow_and_update(), desired(&[("add", "a-1"), ("text", "t-2")]));
        let began = Instant::now();
        served.changed().await.unwrap();
        assert_eq!(*served.borrow_and_update(), desired(&[("text", "t-2")]));
        assert!(began.elapsed() >= DELAY);

        // A plugin that comes back within the delay was never removed.
        sender.send_replace(Desired::new());
        tokio::time::sleep(DELAY / 2).await;
        sender.send_replace(desired(&[("text", "t-2")]));
        tokio::time::sleep(DELAY * 2).await;
        assert!(!served.has_changed().unwrap());
    }
}
