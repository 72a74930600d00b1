//! Thousands of malformed and odd modules: each is refused with a reason, or runs within its limits.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;

use crate::{
    cases::{Case, case},
    count, odd,
    trial::{Outcome, Trial},
};

/// Concurrent modules: the machine is busy, and the pool under pressure.
const AT_ONCE: usize = 6;
/// A module that takes longer is named in the output.
const SLOW: Duration = Duration::from_secs(10);
/// The part of the memory budget that may stay reserved when no guest is left.
const LEFT: u64 = 1 << 20;

/// Generates a module when it is its turn, since some are large.
type Make = Box<dyn FnOnce() -> Case + Send>;

/// Puts modules through a trial, `AT_ONCE` of them concurrently; returns the number of each outcome.
async fn all(name: &str, modules: impl Iterator<Item = (String, Make)> + Send) -> BTreeMap<Outcome, usize> {
    let trial = Arc::new(Trial::new(name));
    let trials = modules.map(|(which, make)| {
        let trial = Arc::clone(&trial);
        tokio::spawn(async move {
            let made = tokio::task::spawn_blocking(make).await;
            let Case { how, bytes } = made.map_err(|error| format!("{which} cannot be made: {error}"))?;
            let started = Instant::now();
            let outcome = trial.of(bytes).await.map_err(|broken| format!("{which} ({how}): {broken}"))?;
            if started.elapsed() > SLOW {
                println!("{which} ({how}): {outcome:?} after {:?}", started.elapsed());
            }
            Ok::<_, String>(outcome)
        })
    });
    let mut outcomes = BTreeMap::new();
    let mut broken = Vec::new();
    let mut trials = futures::stream::iter(trials).buffer_unordered(AT_ONCE);
    while let Some(trial) = trials.next().await {
        match trial.unwrap() {
            Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
            Err(why) => broken.push(why),
        }
    }
    println!("{name}: {outcomes:?}, {} promises broken", broken.len());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let left = trial.memory();
    assert!(left < LEFT, "{left} bytes of the memory budget were not released");
    outcomes
}

/// `SAMOVAR_HOSTILE_MODULES` modules, from the seed `SAMOVAR_HOSTILE_SEED` on: the seed and a count of 1 reproduce one of
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn every_seeded_module_is_refused_with_a_reason_or_runs_within_its_limits() {
    let (first, modules) = (count("SAMOVAR_HOSTILE_SEED", 0), count("SAMOVAR_HOSTILE_MODULES", 1000));
    let made = (first..first + modules).map(|seed| {
        let make: Make = Box::new(move || case(seed));
        (format!("SAMOVAR_HOSTILE_SEED={seed}"), make)
    });
    let outcomes = all("seeds", made).await;
    if modules >= 100 {
        for outcome in [Outcome::Invalid, Outcome::ImportNotGranted, Outcome::Loaded] {
            assert!(outcomes.contains_key(&outcome), "none was {outcome:?}: the cases test too little");
        }
    }
    assert_eq!(outcomes.values().sum::<usize>() as u64, modules);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_module_is_refused_with_a_reason_or_runs_within_its_limits() {
    let made = odd::all().into_iter().map(|(how, make)| {
        let make: Make = Box::new(move || Case { how: how.to_owned(), bytes: make() });
        ("odd".to_owned(), make)
    });
    all("odd", made).await;
}
