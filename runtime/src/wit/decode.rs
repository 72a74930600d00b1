//! Deserializes WIT values from the bytes of JSON, without a tree of JSON values in between.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use wasmtime::component::Val;

use super::{
    Type,
    cases::{Cases, Wrapped},
    meter::Meter,
};
use crate::{CallError, Reservation, printable::sanitized};

/// Reads the arguments of a call from its JSON body: an object by parameter name, an array by position, or nothing
/// if no parameter needs a value. A parameter of an option type may be omitted.
///
/// The reservation grows with the values while they are read.
///
/// # Errors
/// [`CallError::BadArguments`] with the mistake and its position in the JSON, or [`CallError::NodeMemory`] if the memory
/// budget has nothing left for the values.
pub fn arguments(
    body: &[u8],
    params: &[(String, Type)],
    reservation: &Reservation,
) -> Result<Vec<Val>, CallError> {
    let meter = Meter::new(reservation);
    read(body, params, &meter).map_err(|wrong| {
        if meter.refused() { CallError::NodeMemory } else { CallError::BadArguments(sanitized(wrong)) }
    })
}

fn read(body: &[u8], params: &[(String, Type)], meter: &Meter<'_>) -> Result<Vec<Val>, String> {
    if body.trim_ascii().is_empty() {
        return params.iter().map(|(name, ty)| omitted(name, ty)).collect();
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let values = json.deserialize_any(Arguments(params, meter)).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(values)
}

fn omitted(name: &str, ty: &Type) -> Result<Val, String> {
    match ty {
        Type::Option(_) => Ok(Val::Option(None)),
        _ => Err(sanitized(format_args!("`{name}` is missing: its type is {ty}"))),
    }
}

struct Arguments<'a>(&'a [(String, Type)], &'a Meter<'a>);

impl<'de> Visitor<'de> for Arguments<'_> {
    type Value = Vec<Val>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the arguments as an object by name or an array by position")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Ok(fields(self.0, map, self.1)?.into_iter().map(|(_, value)| value).collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::with_capacity(self.0.len());
        for (name, ty) in self.0 {
            match seq.next_element_seed(Located(name, ty, self.1))? {
                Some(value) => values.push(value),
                None => values.push(omitted(name, ty).map_err(A::Error::custom)?),
            }
        }
        expect_end(seq, self.0.len())?;
        Ok(values)
    }
}

/// A value of `ty`, whose errors begin with `name`.
pub(super) struct Located<'a>(pub(super) &'a str, pub(super) &'a Type, pub(super) &'a Meter<'a>);

impl<'de> DeserializeSeed<'de> for Located<'_> {
    type Value = Val;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Val, D::Error> {
        let Self(name, ty, meter) = self;
        Seed(ty, meter)
            .deserialize(deserializer)
            .map_err(|error| D::Error::custom(sanitized(format_args!("{}: {error}", excerpt(name)))))
    }
}

/// A value of one type.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a Type, &'a Meter<'a>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Val;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Val, D::Error> {
        self.1.reserve_value(self.0)?;
        match self.0 {
            Type::Option(_) => deserializer.deserialize_option(self),
            Type::Variant(_) | Type::Result(..) => deserializer.deserialize_any(Cases(self.0, self.1)),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Seed<'_> {
    fn integer<N, E>(self, number: N) -> Result<Val, E>
    where
        N: TryInto<i8>
            + TryInto<u8>
            + TryInto<i16>
            + TryInto<u16>
            + TryInto<i32>
            + TryInto<u32>
            + TryInto<i64>
            + TryInto<u64>
            + fmt::Display
            + Copy,
        E: Error,
    {
        let value = match self.0 {
            Type::S8 => number.try_into().ok().map(Val::S8),
            Type::U8 => number.try_into().ok().map(Val::U8),
            Type::S16 => number.try_into().ok().map(Val::S16),
            Type::U16 => number.try_into().ok().map(Val::U16),
            Type::S32 => number.try_into().ok().map(Val::S32),
            Type::U32 => number.try_into().ok().map(Val::U32),
            Type::S64 => number.try_into().ok().map(Val::S64),
            Type::U64 => number.try_into().ok().map(Val::U64),
            Type::F32 | Type::F64 => return self.visit_str(&number.to_string()),
            _ => {
                return Err(E::custom(format_args!("expected {self}, found the number {number}")));
            }
        };
        value.ok_or_else(|| E::custom(format_args!("{number} is out of range for {self}")))
    }
}

impl fmt::Display for Seed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Type::Char => f.write_str("a string of one character"),
            Type::Bytes => f.write_str("a base64 string"),
            Type::List(element) => write!(f, "an array of {element}"),
            Type::Tuple(types) => write!(f, "an array of {} values", types.len()),
            Type::Flags(names) => write!(f, "an array of some of {}", quoted(names)),
            Type::Enum(names) => write!(f, "one of {}", quoted(names)),
            Type::Record(fields) => {
                write!(f, "an object with {}", quoted(fields.iter().map(|(name, _)| name)))
            }
            Type::Option(some) => write!(f, "{} or null", Seed(some, self.1)),
            ty => f.write_str(&sanitized(ty)),
        }
    }
}

/// The names as a list for an error, which ends after [`MAX_NAMES`].
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let mut names = names.into_iter();
    let mut list: Vec<_> =
        names.by_ref().take(MAX_NAMES).map(|name| format!("`{}`", excerpt(name))).collect();
    if names.next().is_some() {
        list.push("...".to_owned());
    }
    list.join(", ")
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Val, E> {
        match self.0 {
            Type::Bool => Ok(Val::Bool(value)),
            _ => Err(E::invalid_type(Unexpected::Bool(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Val, E> {
        self.integer(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Val, E> {
        self.integer(value)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a JSON number for an f32 is rounded to it")]
    fn visit_f64<E: Error>(self, value: f64) -> Result<Val, E> {
        match self.0 {
            Type::F32 => Ok(Val::Float32(value as f32)),
            Type::F64 => Ok(Val::Float64(value)),
            _ => Err(E::invalid_type(Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Val, E> {
        let refuse = || E::invalid_value(Unexpected::Str(excerpt(value)), &self);
        match self.0 {
            Type::String => {
                self.1.reserve(value.len())?;
                Ok(Val::String(value.to_owned()))
            }
            Type::Char => {
                let mut chars = value.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => Ok(Val::Char(c)),
                    _ => Err(refuse()),
                }
            }
            Type::Bytes => {
                self.1.reserve_list(value.len())?;
                let bytes = BASE64_STANDARD.decode(value).map_err(|_| refuse())?;
                Ok(Val::List(bytes.into_iter().map(Val::U8).collect()))
            }
            Type::Enum(names) if names.iter().any(|name| name == value) => Ok(Val::Enum(value.to_owned())),
            Type::S8 | Type::S16 | Type::S32 | Type::S64 => {
                value.parse::<i64>().map_err(|_| refuse()).and_then(|value| self.integer(value))
            }
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => {
                value.parse::<u64>().map_err(|_| refuse()).and_then(|value| self.integer(value))
            }
            Type::F32 => float(value).map(Val::Float32).ok_or_else(refuse),
            Type::F64 => float(value).map(Val::Float64).ok_or_else(refuse),
            _ => Err(refuse()),
        }
    }

    fn visit_none<E: Error>(self) -> Result<Val, E> {
        match self.0 {
            Type::Option(_) => Ok(Val::Option(None)),
            _ => Err(E::invalid_type(Unexpected::Unit, &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Val, E> {
        self.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Val, D::Error> {
        let value = match self.0 {
            Type::Option(some) if matches!(**some, Type::Option(_)) => {
                deserializer.deserialize_any(Wrapped(some, self.1))?
            }
            Type::Option(some) => Seed(some, self.1).deserialize(deserializer)?,
            _ => return self.deserialize(deserializer),
        };
        Ok(Val::Option(Some(Box::new(value))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Val, A::Error> {
        match self.0 {
            Type::List(element) => {
                let mut values = Vec::new();
                while let Some(value) =
                    seq.next_element_seed(Located(&format!("[{}]", values.len()), element, self.1))?
                {
                    values.push(value);
                }
                Ok(Val::List(values))
            }
            Type::Tuple(types) => {
                let mut values = Vec::with_capacity(types.len());
                for ty in types {
                    let at = format!("[{}]", values.len());
                    let value = seq.next_element_seed(Located(&at, ty, self.1))?;
                    values.push(value.ok_or_else(|| A::Error::invalid_length(values.len(), &self))?);
                }
                expect_end(seq, types.len())?;
                Ok(Val::Tuple(values))
            }
            Type::Flags(names) => {
                let mut set = vec![false; names.len()];
                while let Some(name) = seq.next_element::<std::borrow::Cow<'_, str>>()? {
                    let at = names.iter().position(|known| *known == name);
                    let refuse = || A::Error::invalid_value(Unexpected::Str(excerpt(&name)), &self);
                    set[at.ok_or_else(refuse)?] = true;
                }
                Ok(Val::Flags(
                    names.iter().zip(set).filter(|(_, set)| *set).map(|(name, _)| name.clone()).collect(),
                ))
            }
            _ => Err(A::Error::invalid_type(Unexpected::Seq, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Val, A::Error> {
        match self.0 {
            Type::Record(types) => Ok(Val::Record(fields(types, map, self.1)?)),
            _ => Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
    }
}

/// Reads fields by name in any order. Those of an option type may be omitted; unknown and duplicate names are errors.
fn fields<'de, A: MapAccess<'de>>(
    types: &[(String, Type)],
    mut map: A,
    meter: &Meter<'_>,
) -> Result<Vec<(String, Val)>, A::Error> {
    let mut values: Vec<Option<Val>> = types.iter().map(|_| None).collect();
    while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
        let Some(at) = types.iter().position(|(name, _)| *name == key) else {
            let known = quoted(types.iter().map(|(name, _)| name));
            return Err(A::Error::custom(format_args!(
                "unknown name `{}`: expected one of {known}",
                excerpt(&key)
            )));
        };
        if values[at].is_some() {
            return Err(A::Error::custom(format_args!("duplicate name `{}`", excerpt(&key))));
        }
        values[at] = Some(map.next_value_seed(Located(&types[at].0, &types[at].1, meter))?);
    }
    let fill = |((name, ty), value): (&(String, Type), Option<Val>)| {
        let value = value.map_or_else(|| omitted(name, ty).map_err(A::Error::custom), Ok)?;
        Ok((name.clone(), value))
    };
    types.iter().zip(values).map(fill).collect()
}

fn expect_end<'de, A: SeqAccess<'de>>(mut seq: A, length: usize) -> Result<(), A::Error> {
    match seq.next_element::<serde::de::IgnoredAny>()? {
        None => Ok(()),
        Some(_) => Err(A::Error::custom(format_args!("too many values: expected {length}"))),
    }
}

fn float<F: std::str::FromStr>(text: &str) -> Option<F> {
    // Rust's parser takes further spellings, such as `inf` and `nan`.
    match text {
        "NaN" | "Infinity" | "-Infinity" => text.parse().ok(),
        _ if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E')) => {
            text.parse().ok()
        }
        _ => None,
    }
}

/// The most names that an error lists.
const MAX_NAMES: usize = 12;

/// Truncates a text to a length that suffices to recognise it in an error.
pub(super) fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}
