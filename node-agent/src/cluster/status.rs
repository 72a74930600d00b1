//! Statuses: the latest report of each revision, written to its assignment.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use samovar_crds::{ConditionType, PluginAssignment, PluginAssignmentStatus, State, names, set_condition};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    backoff::Backoff,
    cluster::assignments::Uids,
    desired::Key,
    reports::{Report, Reports},
};

/// The first delay between attempts while the API server does not take a status; it doubles with each.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Writes each changed report to the status of its assignment, as the agent of the Pod `pod_uid`. Retries while the API
/// server is unreachable, and then writes only the latest report of each revision.
pub(crate) async fn follow(client: Client, pod_uid: &str, reports: Reports, mut uids: watch::Receiver<Uids>) {
    let mut changed = reports.subscribe();
    // The last report of each revision, and the UID that it was written to: an object that was created again under its
    // name has no status yet.
    let mut written: BTreeMap<Key, (String, Report)> = BTreeMap::new();
    let new_backoff = || Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut backoff = new_backoff();
    loop {
        changed.mark_unchanged();
        let (reports, known) = (reports.all(), uids.borrow_and_update().clone());
        written.retain(|key, _| reports.contains_key(key));
        let mut missed = false;
        for (key, report) in reports {
            // Removed, and served only for the drain delay: there is no status to write.
            let Some(uid) = known.get(&key) else { continue };
            if written.get(&key).is_some_and(|(object, last)| (object, last) == (uid, &report)) {
                continue;
            }
            match write(&client, pod_uid, &key, &report).await {
                Ok(()) => {
                    written.insert(key, (uid.clone(), report));
                }
                Err(error) => {
                    tracing::warn!(plugin = %key, %error, "a status could not be written; the agent retries");
                    missed = true;
                }
            }
        }
        if missed {
            tokio::time::sleep(backoff.delay()).await;
        } else {
            backoff = new_backoff();
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                known = uids.changed() => if known.is_err() { return },
            }
        }
    }
}

async fn write(client: &Client, pod_uid: &str, key: &Key, report: &Report) -> Result<(), kube::Error> {
    let api: Api<PluginAssignment> = Api::namespaced(client.clone(), &key.namespace);
    // After a start from a checkpoint the assignment may be deleted, or belong to another Pod on the same disk.
    let Some(current) = api.get_opt(&key.revision).await?.filter(|it| it.spec.agent.pod_uid == pod_uid)
    else {
        return Ok(());
    };
    let status = status(&current, report);
    if current.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let patch =
        json!({ "apiVersion": samovar_crds::API_VERSION, "kind": "PluginAssignment", "status": status });
    let params = PatchParams::apply(names::AGENT).force();
    match api.patch_status(&key.revision, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        // Deleted meanwhile: there is no status to write.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

fn status(current: &PluginAssignment, report: &Report) -> PluginAssignmentStatus {
    let before = current.status.clone().unwrap_or_default();
    let mut conditions = before.conditions;
    let ready = Some(report.state == State::Ready);
    let generation = current.metadata.generation;
    set_condition(&mut conditions, ConditionType::Ready, ready, report.reason, &report.message, generation);
    // The cost of the first load is kept: a restart finds everything in the cache, which is no news.
    let load_stats = match (before.load_stats.or(before.figures), report.state) {
        (Some(load_stats), State::Ready) if before.state == Some(State::Ready) => Some(load_stats),
        _ => report.load_stats.clone(),
    };
    PluginAssignmentStatus {
        state: Some(report.state),
        conditions,
        functions: report.functions.clone(),
        load_stats,
        figures: None,
    }
}

#[cfg(test)]
mod tests {
    use samovar_crds::{LoadStats, Reason};

    use super::*;

    fn assignment() -> PluginAssignment {
        serde_json::from_value(json!({
            "apiVersion": samovar_crds::API_VERSION, "kind": "PluginAssignment",
            "metadata": { "name": "text-1-a", "namespace": "demo", "generation": 1 },
            "spec": {
                "nodeName": "node", "agent": { "podName": "agent", "podUid": "uid" },
                "plugin": "text", "revision": "text-1", "revisionNumber": 1, "image": "r/text@sha256:1",
            },
        }))
        .unwrap()
    }

    fn ready(pull_milliseconds: u32) -> Report {
        let load_stats = LoadStats { pull_milliseconds, ..LoadStats::default() };
        Report { load_stats: Some(load_stats), ..Report::of(State::Ready) }
    }

    #[test]
    fn a_restart_into_the_same_state_changes_no_status() {
        let mut assignment = assignment();
        let first = status(&assignment, &ready(40));
        assert_eq!((first.state, first.conditions[0].status.as_str()), (Some(State::Ready), "True"));
        assignment.status = Some(first.clone());
        assert_eq!(status(&assignment, &ready(0)), first);
    }

    #[test]
    fn load_stats_in_the_former_field_figures_are_kept() {
        let mut assignment = assignment();
        let wrote = status(&assignment, &ready(40));
        let figures = wrote.load_stats.clone();
        assignment.status = Some(PluginAssignmentStatus { load_stats: None, figures, ..wrote.clone() });
        assert_eq!(status(&assignment, &ready(0)), wrote);
    }

    #[test]
    fn a_failure_sets_reason_and_message_and_drops_the_load_stats() {
        let mut assignment = assignment();
        assignment.status = Some(status(&assignment, &ready(40)));
        let report = Report {
            reason: Reason::InitFailed,
            message: "the module does not start".to_owned(),
            load_stats: None,
            ..Report::of(State::Failed)
        };
        let failed = status(&assignment, &report);
        let condition = &failed.conditions[0];
        assert_eq!((failed.state, failed.load_stats), (Some(State::Failed), None));
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "InitFailed"));
        assert_eq!(condition.message, "the module does not start");
    }
}
