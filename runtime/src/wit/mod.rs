//! Conversion between WIT values and JSON, by the types of a function.
//!
//! The mapping: a record is an object with the WIT's own names; tuples and lists are arrays; an option is its
//! value or null (an option inside an option is `{"some": value}` or null, so that none is lost); an enum is a
//! string; flags are an array of strings; a variant and a `result` inside another value are `{"case": payload}`,
//! or `"case"` without a payload; a char is a string; `list<u8>` is base64; integers are numbers, and decimal
//! strings are accepted too; NaN and the infinities are the strings `NaN`, `Infinity` and `-Infinity`.

mod cases;
mod decode;
mod encode;
mod meter;
mod types;

pub use decode::arguments;
pub use encode::Json;
pub(crate) use encode::bytes;
pub(crate) use types::TypeSize;
pub use types::{NotCallable, Type};
