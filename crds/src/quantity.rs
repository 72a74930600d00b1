//! Amounts of bytes in Kubernetes' form: `64Mi`, `1G`, `4096`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A whole number of bytes over zero, kept in its written form.
///
/// The forms are those of a [Kubernetes quantity](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/)
/// that means whole bytes: a decimal number with one of the suffixes `k M G T P E` (powers of 1000),
/// `Ki Mi Gi Ti Pi Ei` (powers of 1024), or none.
#[derive(Clone, Debug)]
pub struct Quantity {
    bytes: u64,
    text: String,
}

/// The error for a text that is not a [`Quantity`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an amount of bytes over zero such as 64Mi, 1G or 4096")]
pub struct QuantityError(String);

impl Quantity {
    /// The amount in bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `count` mebibytes.
    pub fn from_mebibytes(count: u32) -> Self {
        Self { bytes: u64::from(count) << 20, text: format!("{count}Mi") }
    }
}

/// Compares the amounts, and not their written forms.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Quantity {}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bytes = parse(text).filter(|&bytes| bytes > 0).ok_or_else(|| QuantityError(text.to_owned()))?;
        Ok(Self { bytes, text: text.to_owned() })
    }
}

/// Parses `text` into bytes, rounded up as in Kubernetes; `None` if it is no quantity or exceeds 64 bits.
fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit: u128 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u128.pow(2),
        "G" => 1000_u128.pow(3),
        "T" => 1000_u128.pow(4),
        "P" => 1000_u128.pow(5),
        "E" => 1000_u128.pow(6),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    u64::try_from(digits.checked_mul(unit)?.div_ceil(scale)).ok()
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrString {
            Int(u64),
            String(String),
        }
        let text = match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(bytes) => bytes.to_string(),
            IntOrString::String(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": "string(self).matches('^[0-9]+([.][0-9]{1,9})?([kMGTPE]|[KMGTPE]i)?$') && !string(self).matches('^[0.]+[A-Za-z]*$')",
                "message": "must be an amount of bytes over zero such as 64Mi, 1G or 4096"
            }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_the_same_as_in_kubernetes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1k", 1000),
            ("1Ki", 1024),
            ("64Mi", 64 << 20),
            ("1.5Gi", 3 << 29),
            ("0.5", 1),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn other_texts_than_amounts_of_bytes_are_refused() {
        for text in
            ["", "0", "0Mi", "-1", "1 Mi", "1mi", "Mi", "1.2.3", ".", "1m", "99999Ei", "1.0000000001Gi"]
        {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_and_strings_are_parsed_and_the_written_form_is_kept() {
        let number: Quantity = serde_json::from_str("4096").unwrap();
        assert_eq!(number, "4Ki".parse().unwrap());
        assert_eq!(serde_json::to_string(&"4Ki".parse::<Quantity>().unwrap()).unwrap(), r#""4Ki""#);
    }
}
