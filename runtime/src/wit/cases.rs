//! Deserializes the WIT values that JSON writes with their case: variants, results, and an option inside an option.

use std::fmt;

use serde::de::{
    Deserializer, EnumAccess, Error, MapAccess, Unexpected, VariantAccess, Visitor,
    value::MapAccessDeserializer,
};
use wasmtime::component::Val;

use super::{
    Type,
    decode::{Located, excerpt, quoted},
    meter::Meter,
};

/// Variants and results: `"case"`, or `{"case": payload}`.
pub(super) struct Cases<'a>(pub(super) &'a Type, pub(super) &'a Meter<'a>);

impl<'a> Cases<'a> {
    /// The type of a case's payload, `Some(None)` if it has none; `None` if there is no such case.
    #[expect(clippy::option_option, reason = "two questions, each with its own no")]
    fn payload(&self, case: &str) -> Option<Option<&'a Type>> {
        match (self.0, case) {
            (Type::Variant(cases), _) => {
                cases.iter().find(|(name, _)| name == case).map(|(_, payload)| payload.as_ref())
            }
            (Type::Result(ok, _), "ok") => Some(ok.as_deref()),
            (Type::Result(_, err), "err") => Some(err.as_deref()),
            _ => None,
        }
    }

    fn value(&self, case: &str, payload: Option<Val>) -> Val {
        let payload = payload.map(Box::new);
        match (self.0, case) {
            (Type::Result(..), "ok") => Val::Result(Ok(payload)),
            (Type::Result(..), _) => Val::Result(Err(payload)),
            _ => Val::Variant(case.to_owned(), payload),
        }
    }
}

impl<'de> Visitor<'de> for Cases<'_> {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = match self.0 {
            Type::Variant(cases) => quoted(cases.iter().map(|(name, _)| name)),
            _ => "`ok`, `err`".to_owned(),
        };
        write!(f, "\"case\" or {{\"case\": payload}}, with one of {names}")
    }

    fn visit_str<E: Error>(self, case: &str) -> Result<Val, E> {
        match self.payload(case) {
            Some(None) => Ok(self.value(case, None)),
            Some(Some(payload)) => Err(E::custom(format_args!(
                "`{case}` needs a payload of type {payload}: {{\"{case}\": ...}}"
            ))),
            None => Err(E::invalid_value(Unexpected::Str(excerpt(case)), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Val, A::Error> {
        MapAccessDeserializer::new(map).deserialize_enum("", &[], self)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Val, A::Error> {
        let (case, access) = access.variant::<String>()?;
        let payload = match self.payload(&case) {
            Some(Some(payload)) => Some(access.newtype_variant_seed(Located(&case, payload, self.1))?),
            Some(None) => {
                access.newtype_variant::<()>().map_err(|_| {
                    A::Error::custom(format_args!("`{case}` has no payload: write \"{case}\""))
                })?;
                None
            }
            None => return Err(A::Error::invalid_value(Unexpected::Str(excerpt(&case)), &self)),
        };
        Ok(self.value(&case, payload))
    }
}

/// The value of an option inside an option: `{"some": value}`.
pub(super) struct Wrapped<'a>(pub(super) &'a Type, pub(super) &'a Meter<'a>);

impl<'de> Visitor<'de> for Wrapped<'_> {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null or {\"some\": value}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Val, A::Error> {
        match map.next_key::<std::borrow::Cow<'_, str>>()?.as_deref() {
            Some("some") => {}
            _ => return Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
        let value = map.next_value_seed(Located("some", self.0, self.1))?;
        match map.next_key::<serde::de::IgnoredAny>()? {
            None => Ok(value),
            Some(_) => Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
    }
}
