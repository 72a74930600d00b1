//! Conditions: their types, their typed reasons, and how one is set.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a condition speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// Calls are answered with the newest revision, everywhere it should run.
    Ready,
    /// The image was found and pinned to a digest.
    Resolved,
    /// A revision is being rolled out.
    Progressing,
    /// A node failed.
    Degraded,
}

impl ConditionType {
    /// The condition's `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Resolved => "Resolved",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a condition is as it is: one reason a cause. The condition's message says what to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// The condition's `reason`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The reason that a condition's `reason` says; `None` for one that this version does not know.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The spec says something that cannot be: the message names the field.
    InvalidSpec,
    /// The image was found and pinned.
    ImageResolved,
    /// The registry has no such image or tag, or the node has it not and may not pull.
    ImageNotFound,
    /// The registry asks for credentials, or refuses those given.
    RegistryUnauthorized,
    /// The registry cannot be reached, or answers with errors. It is asked again.
    RegistryUnavailable,
    /// What the registry gave is not what its digest says.
    DigestMismatch,
    /// The image is no module, or not of a form that is known.
    ArtifactUnsupported,
    /// The bytes are not a valid module or component.
    ModuleInvalid,
    /// The compiler failed or went over its limits.
    CompileFailed,
    /// The module does not have an export that the spec names, or it cannot be called so.
    ExportNotFound,
    /// The module imports something that it is not given.
    ImportNotGranted,
    /// The module's start or `_initialize` function failed.
    InitFailed,
    /// A ConfigMap or a Secret that the policy names, or a key of it, is missing, or the operator does not give it.
    SecretUnavailable,
    /// The agent has no room for the instances: its limit is reached.
    AgentOverloaded,
    /// The agent's disk cache is full of what is in use: a new module does not fit.
    CacheFull,
    /// No node matches the node selector and tolerations, or none has a ready agent.
    NoMatchingNode,
    /// A chosen node's agent does not answer.
    AgentUnavailable,
    /// A Service of the plugin's name belongs to somebody else.
    NameConflict,
    /// The spec asks for no node at all.
    ScaledToZero,
    /// New revisions are held back.
    Paused,
    /// Some nodes do not have the newest revision yet.
    RolloutInProgress,
    /// Every chosen node answers calls with the newest revision.
    AllNodesReady,
    /// The module is being pulled.
    Pulling,
    /// The module is being compiled.
    Compiling,
    /// The first instances are being made.
    Warming,
    /// The agent answers calls.
    Serving,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The most bytes of a condition's message that the API server takes.
const MESSAGE_BYTES: usize = 32_768;

/// Sets one condition in `conditions`; its transition time moves only where its status changes.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    status: Option<bool>,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
) {
    let mut message = message.to_owned();
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = conditions.iter().position(|condition| condition.type_ == type_.as_str());
    let last_transition_time = match old {
        Some(at) if conditions[at].status == status => conditions[at].last_transition_time.clone(),
        _ => Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)),
    };
    let condition = Condition {
        type_: type_.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message,
        observed_generation: generation,
        last_transition_time,
    };
    match old {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Whether the condition is there and `True`.
pub fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_.as_str() && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, ConditionType::Ready, Some(false), Reason::Pulling, "", None);
        conditions[0].last_transition_time = Time(Timestamp::UNIX_EPOCH);
        set_condition(&mut conditions, ConditionType::Ready, Some(false), Reason::Compiling, "", None);
        assert_eq!(conditions[0].last_transition_time.0, Timestamp::UNIX_EPOCH);
        assert_eq!(conditions[0].reason, "Compiling");
        set_condition(&mut conditions, ConditionType::Ready, Some(true), Reason::Serving, "", None);
        assert_ne!(conditions[0].last_transition_time.0, Timestamp::UNIX_EPOCH);
        assert!(is_true(&conditions, ConditionType::Ready));
    }

    #[test]
    fn every_reason_reads_back() {
        assert_eq!(Reason::parse(Reason::ImageNotFound.as_str()), Some(Reason::ImageNotFound));
        assert_eq!(Reason::parse("Other"), None);
    }
}
