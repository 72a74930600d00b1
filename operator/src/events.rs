//! Publishes Events: one for each transition of `Ready`.

use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use samovar_crds::{ConditionType, WasmPlugin, WasmPluginStatus, names};

/// The API server's limit on an Event's note, in characters.
const MAX_NOTE: usize = 1000;

/// The recorder of the operator's Events.
pub(crate) fn recorder(client: Client) -> Recorder {
    Recorder::new(client, Reporter::from(names::OPERATOR))
}

/// Publishes the transition from the plugin's status to the next, if there is one. A failure is only logged.
pub(crate) async fn publish(recorder: &Recorder, plugin: &WasmPlugin, next: &WasmPluginStatus) {
    let Some(event) = transition(plugin.status.as_ref(), next) else { return };
    if let Err(error) = recorder.publish(&event, &plugin.object_ref(&())).await {
        tracing::warn!(%error, "failed to publish an Event");
    }
}

/// The transition of `Ready`, by status or reason. The other conditions repeat it in other words.
fn transition(before: Option<&WasmPluginStatus>, next: &WasmPluginStatus) -> Option<Event> {
    let ready = |status: &WasmPluginStatus| {
        status.conditions.iter().find(|condition| condition.type_ == ConditionType::Ready.as_str()).cloned()
    };
    let now = ready(next)?;
    let was = before.and_then(ready);
    if was.is_some_and(|was| (was.status, was.reason) == (now.status.clone(), now.reason.clone())) {
        return None;
    }
    let is_normal = now.status == "True"
        || matches!(now.reason.as_str(), "RolloutInProgress" | "Paused" | "ScaledToZero");
    let mut note = now.message;
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    Some(Event {
        type_: if is_normal { EventType::Normal } else { EventType::Warning },
        reason: now.reason,
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
}

#[cfg(test)]
mod tests {
    use samovar_crds::{Reason, set_condition};

    use super::*;

    fn status(ready: bool, reason: Reason, message: &str) -> WasmPluginStatus {
        let mut status = WasmPluginStatus::default();
        set_condition(&mut status.conditions, ConditionType::Ready, Some(ready), reason, message, None);
        status
    }

    #[test]
    fn a_transition_is_one_event_and_a_new_message_is_none() {
        let failed = status(false, Reason::ImageNotFound, "a");
        assert!(transition(None, &failed).is_some_and(|event| event.reason == "ImageNotFound"));
        assert!(transition(Some(&failed), &status(false, Reason::ImageNotFound, "b")).is_none());
        assert!(transition(Some(&failed), &status(true, Reason::AllNodesReady, "")).is_some());
    }
}
