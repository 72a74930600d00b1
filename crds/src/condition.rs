//! Conditions of the custom resources: their types, their reasons, and their transitions.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// All chosen nodes serve calls with the newest revision; on an assignment, its agent does.
    Ready,
    /// The image is resolved to a digest.
    Resolved,
    /// A revision is being rolled out.
    Progressing,
    /// The image, a node or the Service failed.
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
        /// The cause of a condition's status, one reason for each cause. The condition's message says what to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// The condition's `reason`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Parses a condition's `reason`; `None` for one that this version does not know.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The spec is invalid; the message names the field.
    InvalidSpec,
    /// The image is resolved to a digest.
    ImageResolved,
    /// The registry has no such image or tag, or the module is not cached and `imagePullPolicy` is `Never`.
    ImageNotFound,
    /// The registry requires credentials, or refuses those that it got.
    RegistryUnauthorized,
    /// The registry is unreachable, or answers with errors. The request is retried.
    RegistryUnavailable,
    /// The bytes from the registry do not match their digest.
    DigestMismatch,
    /// The image holds no module, or its format is unsupported.
    ArtifactUnsupported,
    /// The bytes are not a valid module or component.
    ModuleInvalid,
    /// The compiler failed, or exceeded its limits.
    CompileFailed,
    /// The module lacks an export that the spec names, or the host cannot call that export as the spec says.
    ExportNotFound,
    /// The module imports something that the policy does not grant.
    ImportNotGranted,
    /// The module's start or `_initialize` function failed.
    InitFailed,
    /// A ConfigMap, a Secret or a key that the policy names is missing, or the operator does not serve it.
    SecretUnavailable,
    /// The agent has no room for the instances within its limit.
    AgentOverloaded,
    /// The agent's disk cache is full of pinned files: a new module does not fit.
    CacheFull,
    /// No node matches the node selector and tolerations, or none has a ready agent.
    NoMatchingNode,
    /// The agent of a chosen node is not ready.
    AgentUnavailable,
    /// A Service with the plugin's name belongs to somebody else.
    NameConflict,
    /// `spec.replicas` is 0.
    ScaledToZero,
    /// The plugin is paused: a new revision is held back.
    Paused,
    /// Some chosen nodes do not serve the newest revision yet.
    RolloutInProgress,
    /// All chosen nodes serve calls with the newest revision.
    AllNodesReady,
    /// The agent pulls the module.
    Pulling,
    /// The agent compiles the module.
    Compiling,
    /// The agent makes the first instances.
    Warming,
    /// The agent serves calls.
    Serving,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The API server's limit on a condition's message, in bytes.
const MESSAGE_BYTES: usize = 32_768;

/// Sets one condition in `conditions`. Its transition time changes only with its status.
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

/// Returns true if the condition is present and `True`.
pub fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_.as_str() && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_changes_only_with_the_status() {
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
    fn reasons_are_parsed_from_their_names() {
        assert_eq!(Reason::parse(Reason::ImageNotFound.as_str()), Some(Reason::ImageNotFound));
        assert_eq!(Reason::parse("Other"), None);
    }
}
