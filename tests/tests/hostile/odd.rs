//! Modules that are written byte by byte, each far beyond what a toolchain emits in one respect.

use crate::binary::{COMPONENT, core, leb, name, row, section};

type Make = fn() -> Vec<u8>;

const TYPE: u8 = 1;
const IMPORT: u8 = 2;
const FUNCTION: u8 = 3;
const TABLE: u8 = 4;
const MEMORY: u8 = 5;
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const START: u8 = 8;
const ELEMENT: u8 = 9;
const CODE: u8 = 10;
const DATA: u8 = 11;
const TAG: u8 = 13;

const I32: u8 = 0x7f;
const END: u8 = 0x0b;

/// The sections of a function `f` of the type `func()`: its type, its declaration, its export.
fn takes_nothing() -> Vec<u8> {
    row(TYPE, 1, &[0x60, 0, 0])
}
fn one_function() -> Vec<u8> {
    row(FUNCTION, 1, &[0])
}
fn exported() -> Vec<u8> {
    row(EXPORT, 1, &[1, b'f', 0, 0])
}
/// The code section of one body, with these locals.
fn body(locals: &[u8], code: &[u8]) -> Vec<u8> {
    let whole = [locals, code, &[END]].concat();
    row(CODE, 1, &[&leb(whole.len() as u64), &whole[..]].concat())
}
fn function_of(locals: &[u8], code: &[u8]) -> Vec<u8> {
    core(&[takes_nothing(), one_function(), exported(), body(locals, code)])
}
fn functions(count: u64, each: &[u8]) -> Vec<u8> {
    let body = [&leb(each.len() as u64 + 2), &[0][..], each, &[END]].concat();
    let count_usize = usize::try_from(count).unwrap();
    core(&[
        takes_nothing(),
        row(FUNCTION, count, &vec![0; count_usize]),
        exported(),
        row(CODE, count, &body.repeat(count_usize)),
    ])
}
fn with_export(export: &[u8]) -> Vec<u8> {
    core(&[
        takes_nothing(),
        one_function(),
        row(EXPORT, 1, &[&name(export)[..], &[0, 0]].concat()),
        body(&[0], &[]),
    ])
}
fn with_import(module: &[u8], item: &[u8]) -> Vec<u8> {
    core(&[takes_nothing(), row(IMPORT, 1, &[&name(module)[..], &name(item), &[0, 0]].concat())])
}
fn many(count: u64, item: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(item).collect()
}
/// Nested components, `depth` levels deep.
fn nested(depth: usize) -> Vec<u8> {
    // A header precedes its content and has its length: so the lengths first, from the inside out, then the bytes.
    let mut lengths = vec![COMPONENT.len() as u64];
    for at in 0..depth {
        let inside = lengths[at];
        lengths.push(COMPONENT.len() as u64 + 1 + leb(inside).len() as u64 + inside);
    }
    let mut bytes = COMPONENT.to_vec();
    for inside in lengths[..depth].iter().rev() {
        bytes.push(4);
        bytes.extend(leb(*inside));
        bytes.extend(COMPONENT);
    }
    bytes
}
fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [COMPONENT, &sections.concat()].concat()
}
/// A component's types, each a pair of the previous type: the last has 2^count parts.
fn doubling(count: u64) -> Vec<u8> {
    let tuple = |of: &[u8]| [&[0x6f, 2], of, of].concat();
    let types = many(count, |at| if at == 0 { tuple(&[0x7d]) } else { tuple(&leb(at - 1)) });
    component(&[row(7, count, &types)])
}

/// All of them, with their names.
#[expect(clippy::too_many_lines, reason = "a list")]
pub fn all() -> Vec<(&'static str, Make)> {
    macro_rules! odd { ($($name:literal => $make:expr,)*) => { vec![$(($name, || $make),)*] } }
    odd! {
        "no bytes" => Vec::new(),
        "four bytes" => b"\0asm".to_vec(),
        "a header alone" => core(&[]),
        "a future version" => b"\0asm\x02\0\0\0".to_vec(),
        "a future layer" => b"\0asm\x0d\0\x02\0".to_vec(),
        "a component's header alone" => COMPONENT.to_vec(),
        "a megabyte of zeros" => vec![0; 1 << 20],
        "an unknown section" => core(&[section(99, &[b"what"])]),
        "a section of 4 GiB" => [core(&[]), vec![TYPE], leb(u32::MAX.into())].concat(),
        "a number in LEB128 without end" => [core(&[]), vec![TYPE], vec![0x80; 100]].concat(),
        "an overlong number" => core(&[section(TYPE, &[&[0x81, 0x80, 0x80, 0x80, 0], &[0x60, 0, 0]])]),
        "100,000 types" => core(&[row(TYPE, 100_000, &[0x60, 0, 0].repeat(100_000))]),
        "1,000,001 types" => core(&[row(TYPE, 1_000_001, &[0x60, 0, 0].repeat(1_000_001))]),
        "a type of 1,000 parameters" => {
            let ty = [&[0x60][..], &leb(1000), &[I32; 1000], &[0]].concat();
            core(&[row(TYPE, 1, &ty), one_function(), exported(), body(&[0], &[])])
        },
        "a type of 1,000 results" => {
            let ty = [&[0x60, 0][..], &leb(1000), &[I32; 1000]].concat();
            core(&[row(TYPE, 1, &ty), one_function(), exported(), body(&[0], &[0x41, 0].repeat(1000))])
        },
        "a type of 100,000 parameters" => core(&[row(TYPE, 1, &[&[0x60][..], &leb(100_000), &vec![I32; 100_000], &[0]].concat())]),
        "a recursion group of 100,000 types" => {
            let types = many(100_000, |at| [&[0x60, 1, 0x63][..], &leb(at), &[0]].concat());
            core(&[row(TYPE, 1, &[&[0x4e][..], &leb(100_000), &types].concat())])
        },
        "a chain of 1,000 subtypes" => {
            let types = many(1000, |at| if at == 0 { vec![0x50, 0, 0x60, 0, 0] } else { [&[0x50, 1][..], &leb(at - 1), &[0x60, 0, 0]].concat() });
            core(&[row(TYPE, 1000, &types)])
        },
        "20,000 functions" => functions(20_000, &[]),
        "1,000,001 functions" => functions(1_000_001, &[]),
        "functions without bodies" => core(&[takes_nothing(), row(FUNCTION, 1000, &[0; 1000])]),
        "bodies without functions" => core(&[takes_nothing(), body(&[0], &[])]),
        "100,000 imports" => {
            let imports = many(100_000, |at| [&name(b"env")[..], &name(at.to_string().as_bytes()), &[0, 0]].concat());
            core(&[takes_nothing(), row(IMPORT, 100_000, &imports)])
        },
        "50,000 exports of one function" => {
            let exports = many(50_000, |at| [&name(format!("f{at}").as_bytes())[..], &[0, 0]].concat());
            core(&[takes_nothing(), one_function(), row(EXPORT, 50_000, &exports), body(&[0], &[])])
        },
        "50,000 exports that cannot be called" => {
            let exports = many(50_000, |at| [&name(format!("f{at}").as_bytes())[..], &[0, 0]].concat());
            core(&[row(TYPE, 1, &[0x60, 1, 0x70, 0]), one_function(), row(EXPORT, 50_000, &exports), body(&[0], &[])])
        },
        "100 exports with names of 90 KB" => {
            let exports = many(100, |at| [&name(format!("{at}{}", "n".repeat(90_000)).as_bytes())[..], &[0, 0]].concat());
            core(&[takes_nothing(), one_function(), row(EXPORT, 100, &exports), body(&[0], &[])])
        },
        "two exports of one name" => core(&[takes_nothing(), one_function(), row(EXPORT, 2, &[1, b'f', 0, 0, 1, b'f', 0, 0]), body(&[0], &[])]),
        "two exports of one name of 90 KB" => {
            let export = [&name(&vec![b'n'; 90_000])[..], &[0, 0]].concat();
            core(&[takes_nothing(), one_function(), row(EXPORT, 2, &export.repeat(2)), body(&[0], &[])])
        },
        "an export's name of 1 MB" => with_export(&vec![b'n'; 1 << 20]),
        "an export's name of control characters" => with_export(b"\x1b[2J\r\nforged line\0"),
        "an export's name with a right-to-left override" => with_export("\u{202e}gnirts".as_bytes()),
        "an export without a name" => with_export(b""),
        "an export's name that is not UTF-8" => with_export(b"\xff\xfe"),
        "an export's name that is a path" => with_export(b"../../../../etc/passwd"),
        "an import's name of 90 KB" => with_import(b"env", &vec![b'n'; 90_000]),
        "an import's module of 90 KB" => with_import(&vec![b'n'; 90_000], b"f"),
        "an import's name of control characters" => with_import(b"env\n", b"\x1b[2Jf\r\n"),
        "an import of a shared memory" => core(&[row(IMPORT, 1, &[&name(b"env")[..], &name(b"memory"), &[2, 3, 1, 2]].concat())]),
        "4,294,967,295 locals" => function_of(&[&[1][..], &leb(u32::MAX.into()), &[I32]].concat(), &[]),
        "50,000 locals" => function_of(&[&[1][..], &leb(50_000), &[I32]].concat(), &[]),
        "50,000 locals, one by one" => function_of(&[&leb(49_999)[..], &[1, I32].repeat(49_999)].concat(), &[]),
        "1,000 nested blocks" => function_of(&[0], &[[0x02, 0x40].repeat(1000), vec![END; 1000]].concat()),
        "20,000 nested blocks" => function_of(&[0], &[[0x02, 0x40].repeat(20_000), vec![END; 20_000]].concat()),
        "1,000,000 nested loops" => function_of(&[0], &[[0x03, 0x40].repeat(1_000_000), vec![END; 1_000_000]].concat()),
        "20,000 nested ifs" => function_of(&[0], &[[0x41, 0, 0x04, 0x40].repeat(20_000), vec![END; 20_000]].concat()),
        "blocks without end" => function_of(&[0], &[0x02, 0x40].repeat(1000)),
        "a branch table of 100,000" => function_of(&[0], &[&[0x02, 0x40, 0x41, 0, 0x0e][..], &leb(100_000), &vec![0; 100_001], &[END]].concat()),
        "a branch table beyond the limit" => function_of(&[0], &[&[0x02, 0x40, 0x41, 0, 0x0e][..], &leb(10_000_000), &[END]].concat()),
        "a stack of 100,000 values" => function_of(&[0], &[[0x41, 0].repeat(100_000), vec![0x1a; 100_000]].concat()),
        "a body of 2 MB" => function_of(&[0], &[0x41, 0, 0x1a].repeat(700_000)),
        "a body of 8 MB" => function_of(&[0], &vec![0x01; 8 << 20]),
        "30,000 recursive calls" => function_of(&[0], &[0x10, 0].repeat(30_000)),
        "10,000 multiplications in a row" => function_of(&[0], &[vec![0x41, 3], [0x41, 5, 0x6c].repeat(10_000), vec![0x1a]].concat()),
        "data of 16 MiB" => core(&[row(MEMORY, 1, &[0, 0x80, 2]), row(DATA, 1, &[&[0, 0x41, 0, END][..], &leb(16 << 20), &vec![7; 16 << 20]].concat())]),
        "100,000 data segments" => core(&[row(MEMORY, 1, &[0, 1]), row(DATA, 100_000, &[0, 0x41, 0, END, 0].repeat(100_000))]),
        "100,001 data segments" => core(&[row(MEMORY, 1, &[0, 1]), row(DATA, 100_001, &[0, 0x41, 0, END, 0].repeat(100_001))]),
        "data past the memory's end" => core(&[row(MEMORY, 1, &[0, 1]), row(EXPORT, 1, &[1, b'm', 2, 0]), row(DATA, 1, &[0, 0x41, 0x7f, END, 1, 0])]),
        "data at the end of 4 GiB" => core(&[takes_nothing(), one_function(), row(MEMORY, 1, &[&[0][..], &leb(65_536)].concat()), exported(), body(&[0], &[]), row(DATA, 1, &[0, 0x41, 0x7f, END, 1, 1])]),
        "a memory of 4 GiB" => core(&[takes_nothing(), one_function(), row(MEMORY, 1, &[&[0][..], &leb(65_536)].concat()), exported(), body(&[0], &[])]),
        "a memory of 65,537 pages" => core(&[row(MEMORY, 1, &[&[0][..], &leb(65_537)].concat())]),
        "a 64-bit memory of 16 EiB" => core(&[row(MEMORY, 1, &[&[4][..], &leb(1 << 48)].concat())]),
        "a 64-bit memory and a callable function" => core(&[takes_nothing(), one_function(), row(MEMORY, 1, &[4, 1]), exported(), body(&[0], &[])]),
        "1,000 memories" => core(&[row(MEMORY, 1000, &[0, 1].repeat(1000))]),
        "100 memories" => core(&[takes_nothing(), one_function(), row(MEMORY, 100, &[0, 1].repeat(100)), exported(), body(&[0], &[])]),
        "100 tables" => core(&[takes_nothing(), one_function(), row(TABLE, 100, &[0x70, 0, 1].repeat(100)), exported(), body(&[0], &[])]),
        "a table of 10,000,000" => core(&[takes_nothing(), one_function(), row(TABLE, 1, &[&[0x70, 0][..], &leb(10_000_000)].concat()), exported(), body(&[0], &[])]),
        "a table of 4,294,967,295" => core(&[takes_nothing(), one_function(), row(TABLE, 1, &[&[0x70, 0][..], &leb(u32::MAX.into())].concat()), exported(), body(&[0], &[])]),
        "1,000,000 elements" => core(&[takes_nothing(), one_function(), row(TABLE, 1, &[&[0x70, 0][..], &leb(1_000_000)].concat()), exported(), row(ELEMENT, 1, &[&[0, 0x41, 0, END][..], &leb(1_000_000), &vec![0; 1_000_000]].concat()), body(&[0], &[])]),
        "100,000 globals" => core(&[takes_nothing(), one_function(), row(GLOBAL, 100_000, &[I32, 1, 0x41, 0, END].repeat(100_000)), exported(), body(&[0], &[])]),
        "a global of 100,000 additions" => {
            let sum = [vec![I32, 0, 0x41, 0], [0x41, 1, 0x6a].repeat(100_000), vec![END]].concat();
            core(&[takes_nothing(), one_function(), row(GLOBAL, 1, &sum), exported(), body(&[0], &[])])
        },
        "100,000 tags" => core(&[takes_nothing(), row(TAG, 100_000, &[0, 0].repeat(100_000))]),
        "a start function with a parameter" => core(&[row(TYPE, 1, &[0x60, 1, I32, 0]), one_function(), section(START, &[&[0]]), body(&[0], &[])]),
        "a start function that does not exist" => core(&[section(START, &[&[7]])]),
        "a start function that traps" => core(&[takes_nothing(), one_function(), exported(), section(START, &[&[0]]), body(&[0], &[0x00])]),
        "a custom section of 4 MB" => core(&[section(0, &[&name(b"name"), &vec![0xff; 4 << 20]])]),
        "a custom section with a name longer than itself" => core(&[section(0, &[&leb(1 << 30)])]),
        "invalid function names" => [function_of(&[0], &[0x00]), section(0, &[&name(b"name"), &[1], &leb(8), &leb(1), &leb(0), &leb(5), b"a\x1b[2J"])].concat(),
        "a function's name of 90 KB" => {
            let named = [&leb(1)[..], &leb(0), &name(&vec![b'n'; 90_000])].concat();
            [function_of(&[0], &[0x00]), section(0, &[&name(b"name"), &[1], &leb(named.len() as u64), &named])].concat()
        },
        "continuations" => core(&[row(TYPE, 2, &[0x60, 0, 0, 0x5d, 0]), one_function(), exported(), body(&[0], &[0xd2, 0, 0xe0, 1, 0x1a])]),
        "a resume without a handler" => core(&[row(TYPE, 2, &[0x60, 0, 0, 0x5d, 0]), one_function(), exported(), body(&[0], &[0xd2, 0, 0xe0, 1, 0xe3, 1, 0])]),
        "an uncaught exception" => core(&[takes_nothing(), one_function(), row(TAG, 1, &[0, 0]), exported(), body(&[0], &[0x08, 0])]),
        "1,000 nested components" => nested(1000),
        "10,000 nested components" => nested(10_000),
        "a component's types that double 40 times" => doubling(40),
        "a component's types that double 1,000 times" => doubling(1000),
        "a component's 100,001 types" => component(&[row(7, 100_001, &[0x6b, 0x7d].repeat(100_001))]),
        "a component with an invalid core module" => component(&[section(1, &[b"\0asm\x01\0\0\0\x01\xff"])]),
        "a component's 1,001 core modules" => component(&section(1, &[&core(&[])]).repeat(1001).chunks(10).map(<[u8]>::to_vec).collect::<Vec<_>>()),
        "a component's 2,000 instances" => component(&[section(1, &[&core(&[])]), row(2, 2000, &[0, 0, 0].repeat(2000))]),
        "a component's 300 instances with memories" => component(&[section(1, &[&core(&[row(MEMORY, 1, &[0, 1])])]), row(2, 300, &[0, 0, 0].repeat(300))]),
        "a core module with the header of a component" => [COMPONENT, &takes_nothing()[..], &one_function()].concat(),
    }
}
