//! Serializes WIT values as JSON, without a tree of JSON values in between.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::ser::{Error, Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use wasmtime::component::Val;

use super::Type;

/// A value with its type, which serializes as JSON.
pub struct Json<'a>(pub &'a Val, pub &'a Type);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.0, self.1) {
            (Val::Bool(value), _) => serializer.serialize_bool(*value),
            (Val::S8(value), _) => serializer.serialize_i8(*value),
            (Val::U8(value), _) => serializer.serialize_u8(*value),
            (Val::S16(value), _) => serializer.serialize_i16(*value),
            (Val::U16(value), _) => serializer.serialize_u16(*value),
            (Val::S32(value), _) => serializer.serialize_i32(*value),
            (Val::U32(value), _) => serializer.serialize_u32(*value),
            (Val::S64(value), _) => serializer.serialize_i64(*value),
            (Val::U64(value), _) => serializer.serialize_u64(*value),
            (Val::Float32(value), _) if value.is_finite() => serializer.serialize_f32(*value),
            (Val::Float32(value), _) => serializer.serialize_str(not_finite(f64::from(*value))),
            (Val::Float64(value), _) if value.is_finite() => serializer.serialize_f64(*value),
            (Val::Float64(value), _) => serializer.serialize_str(not_finite(*value)),
            (Val::Char(value), _) => serializer.serialize_char(*value),
            (Val::String(value), _) => serializer.serialize_str(value),
            (Val::List(values), Type::Bytes) => {
                serializer.serialize_str(&BASE64_STANDARD.encode(bytes(values)))
            }
            (Val::List(values), Type::List(element)) => {
                serializer.collect_seq(values.iter().map(|value| Json(value, element)))
            }
            (Val::Record(values), Type::Record(types)) => {
                let mut map = serializer.serialize_map(Some(values.len()))?;
                for ((name, value), (_, ty)) in values.iter().zip(types) {
                    map.serialize_entry(name, &Json(value, ty))?;
                }
                map.end()
            }
            (Val::Tuple(values), Type::Tuple(types)) => {
                let mut seq = serializer.serialize_seq(Some(values.len()))?;
                for (value, ty) in values.iter().zip(types) {
                    seq.serialize_element(&Json(value, ty))?;
                }
                seq.end()
            }
            (Val::Variant(case, payload), Type::Variant(cases)) => {
                let ty = cases.iter().find(|(name, _)| name == case).and_then(|(_, ty)| ty.as_ref());
                variant(serializer, case, payload.as_deref().zip(ty))
            }
            (Val::Result(Ok(payload)), Type::Result(ok, _)) => {
                variant(serializer, "ok", payload.as_deref().zip(ok.as_deref()))
            }
            (Val::Result(Err(payload)), Type::Result(_, err)) => {
                variant(serializer, "err", payload.as_deref().zip(err.as_deref()))
            }
            (Val::Enum(name), _) => serializer.serialize_str(name),
            (Val::Flags(names), _) => serializer.collect_seq(names),
            (Val::Option(None), _) => serializer.serialize_unit(),
            (Val::Option(Some(value)), Type::Option(some)) => match **some {
                Type::Option(_) => variant(serializer, "some", Some((&**value, &**some))),
                _ => Json(value, some).serialize(serializer),
            },
            _ => Err(S::Error::custom("the guest returned a value of another type than it declares")),
        }
    }
}

fn variant<S: Serializer>(
    serializer: S,
    case: &str,
    payload: Option<(&Val, &Type)>,
) -> Result<S::Ok, S::Error> {
    match payload {
        None => serializer.serialize_str(case),
        Some((value, ty)) => {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(case, &Json(value, ty))?;
            map.end()
        }
    }
}

/// The bytes of a `list<u8>`.
pub(crate) fn bytes(values: &[Val]) -> Vec<u8> {
    values.iter().filter_map(|value| if let Val::U8(byte) = value { Some(*byte) } else { None }).collect()
}

fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}
