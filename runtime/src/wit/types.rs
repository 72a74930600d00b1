//! WIT types, copied from a component once, when it is loaded.

use std::fmt;

use wasmtime::component;

/// A type that JSON can represent. It is structural, since a component does not carry the names of its types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `bool`
    Bool,
    /// `s8`
    S8,
    /// `u8`
    U8,
    /// `s16`
    S16,
    /// `u16`
    U16,
    /// `s32`
    S32,
    /// `u32`
    U32,
    /// `s64`
    S64,
    /// `u64`
    U64,
    /// `f32`
    F32,
    /// `f64`
    F64,
    /// `char`
    Char,
    /// `string`
    String,
    /// `list<u8>`
    Bytes,
    /// `list<T>` of anything else
    List(Box<Type>),
    /// Fields by name, in order.
    Record(Vec<(String, Type)>),
    /// `tuple<...>`
    Tuple(Vec<Type>),
    /// Cases by name, in order.
    Variant(Vec<(String, Option<Type>)>),
    /// Names in order.
    Enum(Vec<String>),
    /// `option<T>`
    Option(Box<Type>),
    /// `result<T, E>`
    Result(Option<Box<Type>>, Option<Box<Type>>),
    /// Names in order.
    Flags(Vec<String>),
}

/// The reason for which a function cannot be called with JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCallable {
    /// A resource, which lives in one instance, as a call's instance ends with the call.
    #[error("its type contains a resource, which cannot leave its instance")]
    Resource,
    /// A type without a form in JSON: a stream, a future or an error context, among others.
    #[error("its type contains a {0}, which JSON cannot represent")]
    Unsupported(&'static str),
    /// A hostile or mistaken type: WIT types can name each other until they are astronomically large.
    #[error("its type is too large: it has more than {} parts or {} levels", MAX_PARTS, MAX_LEVELS)]
    TooLarge,
}

const MAX_PARTS: usize = 10_000;
const MAX_LEVELS: usize = 64;

/// The parts that the types of one function may still have.
pub(crate) struct TypeSize(usize);

impl TypeSize {
    pub(crate) fn new() -> Self {
        Self(MAX_PARTS)
    }
}

impl Type {
    /// Copies a component's type.
    pub(crate) fn new(ty: &component::Type, size: &mut TypeSize) -> Result<Self, NotCallable> {
        Self::within(ty, size, MAX_LEVELS)
    }

    fn within(ty: &component::Type, size: &mut TypeSize, levels: usize) -> Result<Self, NotCallable> {
        let levels = levels.checked_sub(1).ok_or(NotCallable::TooLarge)?;
        size.0 = size.0.checked_sub(1).ok_or(NotCallable::TooLarge)?;
        let mut inner = |ty: &component::Type| Self::within(ty, size, levels);
        let boxed =
            |ty: Option<component::Type>,
             inner: &mut dyn FnMut(&component::Type) -> Result<Self, NotCallable>| {
                ty.map(|ty| inner(&ty).map(Box::new)).transpose()
            };
        Ok(match ty {
            component::Type::Bool => Self::Bool,
            component::Type::S8 => Self::S8,
            component::Type::U8 => Self::U8,
            component::Type::S16 => Self::S16,
            component::Type::U16 => Self::U16,
            component::Type::S32 => Self::S32,
            component::Type::U32 => Self::U32,
            component::Type::S64 => Self::S64,
            component::Type::U64 => Self::U64,
            component::Type::Float32 => Self::F32,
            component::Type::Float64 => Self::F64,
            component::Type::Char => Self::Char,
            component::Type::String => Self::String,
            component::Type::List(list) => match list.ty() {
                component::Type::U8 => Self::Bytes,
                element => Self::List(Box::new(inner(&element)?)),
            },
            component::Type::Record(record) => Self::Record(
                record
                    .fields()
                    .map(|field| Ok((field.name.to_owned(), inner(&field.ty)?)))
                    .collect::<Result<_, _>>()?,
            ),
            component::Type::Tuple(tuple) => {
                Self::Tuple(tuple.types().map(|ty| inner(&ty)).collect::<Result<_, _>>()?)
            }
            component::Type::Variant(variant) => Self::Variant(
                variant
                    .cases()
                    .map(|case| Ok((case.name.to_owned(), case.ty.map(|ty| inner(&ty)).transpose()?)))
                    .collect::<Result<_, _>>()?,
            ),
            component::Type::Enum(names) => Self::Enum(names.names().map(str::to_owned).collect()),
            component::Type::Option(option) => Self::Option(Box::new(inner(&option.ty())?)),
            component::Type::Result(result) => {
                Self::Result(boxed(result.ok(), &mut inner)?, boxed(result.err(), &mut inner)?)
            }
            component::Type::Flags(flags) => Self::Flags(flags.names().map(str::to_owned).collect()),
            component::Type::Own(_) | component::Type::Borrow(_) => return Err(NotCallable::Resource),
            component::Type::Future(_) => return Err(NotCallable::Unsupported("future")),
            component::Type::Stream(_) => return Err(NotCallable::Unsupported("stream")),
            component::Type::ErrorContext => return Err(NotCallable::Unsupported("error-context")),
            component::Type::Map(_) => return Err(NotCallable::Unsupported("map")),
            component::Type::FixedLengthList(_) => return Err(NotCallable::Unsupported("fixed-length list")),
        })
    }
}

/// Writes the type in WIT's syntax, and named types such as records in full.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::S8 => f.write_str("s8"),
            Self::U8 => f.write_str("u8"),
            Self::S16 => f.write_str("s16"),
            Self::U16 => f.write_str("u16"),
            Self::S32 => f.write_str("s32"),
            Self::U32 => f.write_str("u32"),
            Self::S64 => f.write_str("s64"),
            Self::U64 => f.write_str("u64"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Char => f.write_str("char"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("list<u8>"),
            Self::List(element) => write!(f, "list<{element}>"),
            Self::Record(fields) => {
                f.write_str("record { ")?;
                separated(f, fields, |f, (name, ty)| write!(f, "{name}: {ty}"))?;
                f.write_str(" }")
            }
            Self::Tuple(types) => {
                f.write_str("tuple<")?;
                separated(f, types, |f, ty| write!(f, "{ty}"))?;
                f.write_str(">")
            }
            Self::Variant(cases) => {
                f.write_str("variant { ")?;
                separated(f, cases, |f, (name, ty)| match ty {
                    Some(ty) => write!(f, "{name}({ty})"),
                    None => f.write_str(name),
                })?;
                f.write_str(" }")
            }
            Self::Enum(names) => write!(f, "enum {{ {} }}", names.join(", ")),
            Self::Flags(names) => write!(f, "flags {{ {} }}", names.join(", ")),
            Self::Option(some) => write!(f, "option<{some}>"),
            Self::Result(None, None) => f.write_str("result"),
            Self::Result(Some(ok), None) => write!(f, "result<{ok}>"),
            Self::Result(None, Some(err)) => write!(f, "result<_, {err}>"),
            Self::Result(Some(ok), Some(err)) => write!(f, "result<{ok}, {err}>"),
        }
    }
}

fn separated<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write(f, item)?;
    }
    Ok(())
}
