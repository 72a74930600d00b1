//! Durations in Kubernetes' form: `50ms`, `1s`, `1m30s`.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration over zero and at most one hour, in the form of Go's `time.ParseDuration`.
///
/// The bounds are part of the type because an endless or zero limit is never what its author meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// The longest duration.
const LONGEST: time::Duration = time::Duration::from_hours(1);

impl Duration {
    /// `millis` milliseconds.
    ///
    /// # Panics
    /// If `millis` is zero or over an hour. For constants.
    pub const fn from_millis(millis: u64) -> Self {
        assert!(millis > 0 && millis <= 3_600_000);
        Self(time::Duration::from_millis(millis))
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed: kube::core::Duration = text
            .parse()
            .map_err(|error| format!("`{text}` is not a duration such as 50ms, 1s or 1m30s: {error}"))?;
        if parsed.is_negative() || parsed <= time::Duration::ZERO || parsed > LONGEST {
            return Err(format!("`{text}` is out of range: a duration is over 0s and at most 1h"));
        }
        Ok(Self(parsed.into()))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&kube::core::Duration::from(self.0), f)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        kube::core::Duration::from(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('1h')",
                "message": "must be a duration such as 50ms, 1s or 1m30s, over 0s and at most 1h"
            }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_printed_as_in_kubernetes() {
        for (text, millis) in
            [("50ms", 50), ("1s", 1000), ("1m30s", 90_000), ("1h", 3_600_000), ("0.5s", 500)]
        {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration, "{text}");
        }
    }

    #[test]
    fn zero_negative_and_endless_durations_are_refused() {
        for text in ["0s", "-1s", "1h1ms", "5", "", "s", "1d"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}
