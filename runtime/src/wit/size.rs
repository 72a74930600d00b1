//! What WIT values take in memory: up to forty times their JSON.

use wasmtime::component::Val;

/// The bytes that `values` take, allocators' own apart.
pub(crate) fn bytes_of(values: &[Val]) -> u64 {
    values.iter().map(value).sum()
}

fn value(value: &Val) -> u64 {
    let behind = match value {
        Val::String(text) | Val::Enum(text) => text.len() as u64,
        Val::List(values) | Val::Tuple(values) | Val::FixedLengthList(values) => bytes_of(values),
        Val::Map(entries) => entries.iter().map(|(key, entry)| self::value(key) + self::value(entry)).sum(),
        Val::Record(fields) => fields.iter().map(|(name, field)| named(name) + self::value(field)).sum(),
        Val::Flags(names) => names.iter().map(|name| named(name)).sum(),
        Val::Variant(name, payload) => name.len() as u64 + boxed(payload.as_deref()),
        Val::Option(payload) | Val::Result(Ok(payload) | Err(payload)) => boxed(payload.as_deref()),
        _ => 0,
    };
    size_of::<Val>() as u64 + behind
}

fn named(name: &str) -> u64 {
    (size_of::<String>() + name.len()) as u64
}

fn boxed(payload: Option<&Val>) -> u64 {
    payload.map_or(0, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_counts_with_all_that_it_holds() {
        let one = size_of::<Val>() as u64;
        let text = || Val::String("four".to_owned());
        for (value, bytes) in [
            (Val::U8(1), one),
            (text(), one + 4),
            (Val::List(vec![Val::U8(1); 1000]), 1001 * one),
            (Val::Option(Some(Box::new(text()))), 2 * one + 4),
            (Val::Option(None), one),
            (Val::Variant("case".to_owned(), Some(Box::new(Val::U8(1)))), 2 * one + 4),
            (Val::Record(vec![("name".to_owned(), text())]), 2 * one + 8 + size_of::<String>() as u64),
        ] {
            assert_eq!(bytes_of(std::slice::from_ref(&value)), bytes, "{value:?}");
        }
    }
}
