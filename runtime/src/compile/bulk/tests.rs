//! Differential tests: the instructions beside their chunked loops.

use std::sync::LazyLock;

use wasmtime::{Engine, Instance, Memory, Module, Store, Trap, Val};

use super::*;

fn pieces(wat: &str) -> Vec<u8> {
    let wasm = wat::parse_str(wat).unwrap();
    let split = in_pieces(Kind::of(&wasm).unwrap(), &wasm).unwrap().into_owned();
    assert_ne!(split, wasm);
    wasmparser::validate(&split).unwrap();
    split
}

/// Calls `f`, and returns its trap and the contents of the memories.
fn run(module: &Module, operands: &[Val]) -> (Option<Trap>, Vec<Vec<u8>>) {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[]).unwrap();
    let memories = ["a", "b"].map(|name| instance.get_memory(&mut store, name));
    let memories: Vec<Memory> = memories.into_iter().flatten().collect();
    for memory in &memories {
        memory.write(&mut store, 0, &DISTINCT).unwrap();
    }
    let ended = instance.get_func(&mut store, "f").unwrap().call(&mut store, operands, &mut []);
    let trap = ended.err().map(|error| error.downcast().unwrap());
    (trap, memories.iter().map(|memory| memory.data(&store).to_vec()).collect())
}

/// Asserts that the instruction and its rewrite have the same effect.
fn assert_same(wat: &str, of: impl IntoIterator<Item = [Val; 3]>) {
    let engine = Engine::default();
    let [whole, split] =
        [wat::parse_str(wat).unwrap(), pieces(wat)].map(|wasm| Module::new(&engine, wasm).unwrap());
    for operands in of {
        assert!(run(&whole, &operands) == run(&split, &operands), "{wat} {operands:?}");
    }
}

fn val(ty: &str, value: u64) -> Val {
    if ty == "i32" { Val::I32((value as u32).cast_signed()) } else { Val::I64(value.cast_signed()) }
}

/// Size of the memories: three pieces and a page.
const PAGES: u64 = 3 * PIECE / 65536 + 1;
/// Contents of which no two pieces are equal.
static DISTINCT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (1..)
        .flat_map(|at: u32| at.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take((PAGES << 16) as usize)
        .collect()
});
/// Zero, one piece, one byte more or less, many pieces, past the end, past all addresses.
const LENGTHS: [u64; 7] = [0, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 12345, PAGES << 16, u32::MAX as u64];
const PLACES: [u64; 4] = [0, 7, PIECE + 1, PAGES << 16];

#[test]
fn a_fill_in_pieces_does_what_the_instruction_does() {
    for address in ["i32", "i64"] {
        let wat = format!(
            r#"(module (memory (export "a") {address} {PAGES}) (func (export "f") (param {address} i32 {address})
                (memory.fill (local.get 0) (local.get 1) (local.get 2))))"#
        );
        let val = |value| val(address, value);
        let each =
            LENGTHS.into_iter().flat_map(|length| PLACES.map(|at| [val(at), Val::I32(0x1ab), val(length)]));
        assert_same(&wat, each);
    }
}

#[test]
fn a_copy_in_pieces_does_what_the_instruction_does() {
    let wide = ["i64", "i64"];
    // Within one memory, and between two with different address types.
    for (types, to, from) in
        [(["i32", "i64"], 0, 0), (wide, 1, 1), (["i64", "i32"], 0, 1), (["i32", "i64"], 0, 1)]
    {
        let operands = [types[to], types[from]];
        let length = if operands == wide { "i64" } else { "i32" };
        let wat = format!(
            r#"(module (memory (export "a") {} {PAGES}) (memory (export "b") {} {PAGES})
                (func (export "f") (param {} {} {length})
                    (memory.copy {to} {from} (local.get 0) (local.get 1) (local.get 2))))"#,
            types[0], types[1], operands[0], operands[1],
        );
        let places = PLACES.into_iter().flat_map(|at| PLACES.map(|what| (at, what)));
        let each = places.flat_map(|(at, what)| {
            LENGTHS.map(|bytes| [val(operands[0], at), val(operands[1], what), val(length, bytes)])
        });
        assert_same(&wat, each);
    }
}

#[test]
fn past_the_last_address_it_traps_and_does_not_wrap_around() {
    // All that 32 bits can address; no page of it is touched.
    let split = pieces(
        r#"(module (memory (export "a") 65536) (func (export "f") (param i32 i32 i32)
            (memory.fill (local.get 0) (local.get 1) (local.get 2))))"#,
    );
    let engine = Engine::default();
    let module = Module::new(&engine, split).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let fill = instance.get_typed_func::<(u32, u32, u32), ()>(&mut store, "f").unwrap();
    let error = fill.call(&mut store, (0xfff0_0000, 1, 0x20_0000)).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Trap::MemoryOutOfBounds));
    let trapped_in = error.downcast_ref::<wasmtime::WasmBacktrace>().unwrap().frames()[0].func_name();
    assert_eq!(trapped_in, Some("memory.fill"));
    let memory = instance.get_memory(&mut store, "a").unwrap();
    assert_eq!((memory.data(&store)[0], memory.data(&store)[0xfff0_0000]), (0, 0));
}

#[test]
fn short_instructions_stay_and_long_ones_of_every_module_are_rewritten() {
    let short = wat::parse_str(format!(
        "(module (memory 64) (func (param i32) (memory.fill (local.get 0) (i32.const 0) (i32.const {PIECE}))))"
    ));
    assert!(matches!(in_pieces(Kind::Core, &short.unwrap()).unwrap(), Cow::Borrowed(_)));
    let long = format!("(memory.fill (i32.const 0) (i32.const 0) (i32.const {}))", PIECE + 1);
    let split = pieces(&format!(
        "(component (core module (memory 64) (func {long}))
            (component (core module (import \"\" \"f\" (func)) (memory 64) (func) (func {long} {long}))))"
    ));
    let mut calls = 0;
    for payload in Parser::new(0).parse_all(&split) {
        let Payload::CodeSectionEntry(body) = payload.unwrap() else { continue };
        let operators = body.get_operators_reader().unwrap().into_iter();
        calls += operators.filter(|operator| matches!(operator, Ok(Operator::Call { .. }))).count();
    }
    assert_eq!(calls, 3);
}

#[test]
fn too_deep_components_and_truncated_modules_are_refused() {
    let nested = |levels: usize| {
        let wat = format!("{}{}", "(component".repeat(levels), ")".repeat(levels));
        in_pieces(Kind::Component, &wat::parse_str(wat).unwrap()).map(drop)
    };
    assert!(matches!((nested(LEVELS), nested(LEVELS + 1)), (Ok(()), Err(BulkError::TooDeep))));
    let whole = wat::parse_str(
        "(module (memory 1) (func (param i32) (memory.fill (local.get 0) (local.get 0) (local.get 0))))",
    )
    .unwrap();
    for end in PREAMBLE..whole.len() {
        let _ = in_pieces(Kind::Core, &whole[..end]);
    }
    let component = [&b"\0asm\x0d\0\x01\0\x01"[..], &[whole.len() as u8], &whole].concat();
    assert!(matches!(in_pieces(Kind::Component, &component), Ok(Cow::Owned(_))));
    for end in PREAMBLE + 1..component.len() {
        assert!(
            matches!(in_pieces(Kind::Component, &component[..end]), Err(BulkError::Malformed(_))),
            "{end}"
        );
    }
    assert!(matches!(in_pieces(Kind::Core, &whole[..whole.len() - 1]), Err(BulkError::Malformed(_))));
}
