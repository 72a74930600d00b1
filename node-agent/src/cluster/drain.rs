//! Lingering: what is wanted here no more is served on for a moment, until the cluster sends its calls elsewhere.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::desired::{Desired, DesiredRevision, Key};

/// Outputs what `wanted` says, for ever, but lets a plugin that is gone from there go only after `delay`. A revision
/// that is replaced by another of its plugin does not linger: calls have somewhere to go.
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
                // Whoever said what is wanted is gone: what is served stays as it is.
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
    async fn what_is_gone_is_served_for_a_moment_and_what_is_replaced_is_not() {
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

        // One that comes back meanwhile never went.
        sender.send_replace(Desired::new());
        tokio::time::sleep(DELAY / 2).await;
        sender.send_replace(desired(&[("text", "t-2")]));
        tokio::time::sleep(DELAY * 2).await;
        assert!(!served.has_changed().unwrap());
    }
}
