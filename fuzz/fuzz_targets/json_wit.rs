//! JSON to WIT values and back: what is read of a body is written, and read and written again as the same.

#![no_main]

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use samovar_runtime::{
    CallError, Engine, EngineOptions,
    wit::{Json, Type, arguments},
};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    Engine::new(&EngineOptions { instances: 1, memory: Some(256 << 20), ..EngineOptions::default() }).expect("one fits")
});

const LEVELS: usize = 5;

fn names(input: &mut Unstructured<'_>, word: &str) -> arbitrary::Result<Vec<String>> {
    Ok((0..input.int_in_range(1..=12)?).map(|at| format!("{word}{at}")).collect())
}

fn ty(input: &mut Unstructured<'_>, levels: usize) -> arbitrary::Result<Type> {
    let simple = [
        Type::Bool,
        Type::S8,
        Type::U8,
        Type::S16,
        Type::U16,
        Type::S32,
        Type::U32,
        Type::S64,
        Type::U64,
        Type::F32,
        Type::F64,
        Type::Char,
        Type::String,
        Type::Bytes,
    ];
    let boxed = |input: &mut Unstructured<'_>| ty(input, levels - 1).map(Box::new);
    let maybe = |input: &mut Unstructured<'_>| bool::arbitrary(input)?.then(|| boxed(input)).transpose();
    Ok(match input.int_in_range(0..=if levels == 0 { 15 } else { 21 })? {
        at @ 0..=13 => simple[at].clone(),
        14 => Type::Enum(names(input, "e")?),
        15 => Type::Flags(names(input, "f")?),
        16 => match boxed(input)? {
            // A list of bytes is a type of its own.
            element if *element == Type::U8 => Type::Bytes,
            element => Type::List(element),
        },
        17 => Type::Option(boxed(input)?),
        18 => Type::Result(maybe(input)?, maybe(input)?),
        19 => {
            let fields = names(input, "r")?.into_iter().map(|name| Ok((name, ty(input, levels - 1)?)));
            Type::Record(fields.collect::<arbitrary::Result<_>>()?)
        }
        20 => Type::Tuple(
            (0..input.int_in_range(1..=4)?).map(|_| ty(input, levels - 1)).collect::<Result<_, _>>()?,
        ),
        _ => {
            let cases = names(input, "c")?.into_iter().map(|name| Ok((name, maybe(input)?.map(|ty| *ty))));
            Type::Variant(cases.collect::<arbitrary::Result<_>>()?)
        }
    })
}

/// The body as one argument of that type, written again; `None` where it does not fit.
fn again(body: &[u8], params: &[(String, Type)]) -> Option<Vec<u8>> {
    match arguments(body, params, &ENGINE.memory().reservation()) {
        Ok(values) => {
            assert_eq!(values.len(), 1);
            Some(serde_json::to_vec(&[Json(&values[0], &params[0].1)]).expect("what was read can be written"))
        }
        Err(CallError::BadArguments(why)) => {
            assert!(!why.is_empty() && why.len() < 2048, "{why}");
            None
        }
        Err(CallError::NodeMemory) => None,
        Err(other) => panic!("{other}"),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let Ok(ty) = ty(&mut input, LEVELS) else { return };
    let params = [("value".to_owned(), ty)];
    if let Some(json) = again(input.take_rest(), &params) {
        assert_eq!(
            again(&json, &params).as_ref(),
            Some(&json),
            "{} is not read as {}",
            String::from_utf8_lossy(&json),
            params[0].1
        );
    }
});
