//! Modules that are generated, mutated, truncated or malformed: one for each seed.

use std::{panic, sync::LazyLock};

use arbitrary::{Arbitrary as _, Unstructured};
use wasm_mutate::WasmMutate;

use crate::{
    binary::{leb, sections},
    file,
    numbers::Numbers,
};

/// One module, and how it was generated.
pub struct Case {
    /// A description of the steps, for the reader of a failure.
    pub how: String,
    pub bytes: Vec<u8>,
}

/// Core modules and components of the repository, from which others are derived.
static WHOLE: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    const FILES: [&str; 14] = [
        "examples/hello/hello.wat",
        "examples/text/text.wasm",
        "tests/guests/command.wat",
        "tests/guests/command/command.wasm",
        "tests/guests/echo.wat",
        "tests/guests/grow.wat",
        "tests/guests/initialize.wat",
        "tests/guests/scalars.wat",
        "tests/guests/trap.wat",
        "tests/guests/trio.wat",
        "tests/guests/types/types.wasm",
        "tests/guests/wasi-print.wat",
        "tests/guests/wasi/wasi.wasm",
        "tests/guests/wasm-engine.wat",
    ];
    FILES.iter().map(|path| (*path, wat::parse_file(file(path)).unwrap())).collect()
});

/// The module of a seed.
pub fn case(seed: u64) -> Case {
    let mut numbers = Numbers::of(seed);
    match seed % 10 {
        0..=2 => smith_core(&mut numbers),
        3 => smith_component(&mut numbers),
        4 | 5 => mutated(&mut numbers),
        6 => truncated(&mut numbers),
        7 => missized(&mut numbers),
        8 => flipped(&mut numbers),
        _ => shuffled(&mut numbers),
    }
}

fn whole(numbers: &mut Numbers) -> (&'static str, Vec<u8>) {
    numbers.one_of(&WHOLE).clone()
}

/// A config with random proposals and bounds.
fn config(numbers: &mut Numbers) -> wasm_smith::Config {
    let bytes = numbers.bytes(4096);
    let mut config = wasm_smith::Config::arbitrary(&mut Unstructured::new(&bytes)).unwrap_or_default();
    // A module with unknown imports is refused before it runs: most are to run.
    if numbers.below(4) > 0 {
        config.max_imports = 0;
        config.min_imports = 0;
    }
    config.max_funcs = config.max_funcs.max(4);
    config.min_exports = config.max_exports.min(3);
    config.export_everything = numbers.below(2) == 0;
    config.generate_custom_sections = numbers.below(4) == 0;
    // Memories of gigabytes are refused, and one in four is enough to test that.
    if numbers.below(4) > 0 {
        config.max_memory32_bytes = 1 << 20;
        config.max_memory64_bytes = 1 << 20;
        config.max_table_elements = 1000;
    }
    config
}

fn smith_core(numbers: &mut Numbers) -> Case {
    let config = config(numbers);
    let length = 1 << (8 + numbers.below(9));
    let bytes = numbers.bytes(length);
    match wasm_smith::Module::new(config, &mut Unstructured::new(&bytes)) {
        Ok(mut module) => {
            // A module that never ends takes its whole timeout: a few of them are enough.
            let ends = numbers.below(16) > 0 && module.ensure_termination(1000).is_ok();
            let how =
                format!("wasm-smith, a core module that {}", if ends { "ends" } else { "may never end" });
            Case { how, bytes: module.to_bytes() }
        }
        Err(_) => Case { how: "random bytes".to_owned(), bytes },
    }
}

fn smith_component(numbers: &mut Numbers) -> Case {
    let config = config(numbers);
    let length = 1 << (6 + numbers.below(8));
    let bytes = numbers.bytes(length);
    match wasm_smith::Component::new(config, &mut Unstructured::new(&bytes)) {
        Ok(component) => Case { how: "wasm-smith, a component".to_owned(), bytes: component.to_bytes() },
        Err(_) => Case { how: "random bytes".to_owned(), bytes },
    }
}

/// A fixture after a few mutations that leave it valid.
fn mutated(numbers: &mut Numbers) -> Case {
    let (path, mut bytes) = whole(numbers);
    let rounds = 1 + numbers.below(5);
    let mut made = 0;
    for _ in 0..rounds {
        let seed = numbers.next();
        // wasm-mutate is not under test: if it panics, the module stays as it is.
        let mutate = panic::catch_unwind(|| {
            let mut mutate = WasmMutate::default();
            mutate.seed(seed).fuel(1000);
            mutate.run(&bytes).ok()?.next()?.ok()
        });
        if let Ok(Some(mutated)) = mutate {
            bytes = mutated;
            made += 1;
        }
    }
    Case { how: format!("{path} after {made} mutations"), bytes }
}

/// A fixture that is truncated at a section's start, in its header, in its middle or at its end.
fn truncated(numbers: &mut Numbers) -> Case {
    let (path, mut bytes) = whole(numbers);
    let &[start, content, end] = numbers.one_of(&sections(&bytes));
    let at = *numbers.one_of(&[
        start,
        start + 1,
        content,
        usize::midpoint(content, end),
        end.saturating_sub(1),
        end,
    ]);
    bytes.truncate(at);
    Case { how: format!("{path}, its first {at} bytes"), bytes }
}

/// A fixture with a section that claims another size, or another number of items.
fn missized(numbers: &mut Numbers) -> Case {
    let (path, bytes) = whole(numbers);
    let &[start, content, end] = numbers.one_of(&sections(&bytes));
    let claim = *numbers.one_of(&[0, 1, 127, 0xffff, 1 << 20, i32::MAX as u64, u32::MAX.into(), u64::MAX]);
    let (bytes, what) = if numbers.below(2) == 0 {
        ([&bytes[..=start], &leb(claim), &bytes[content..]].concat(), "bytes")
    } else {
        let inside = [&leb(claim), &bytes[(content + 1).min(end)..end]].concat();
        let length = leb(inside.len() as u64);
        ([&bytes[..=start], &length, &inside, &bytes[end..]].concat(), "items")
    };
    Case { how: format!("{path}, its section at {start} claims {claim} {what}"), bytes }
}

fn flipped(numbers: &mut Numbers) -> Case {
    let (path, mut bytes) = whole(numbers);
    let flips = 1 << numbers.below(8);
    for _ in 0..flips {
        let at = numbers.below(bytes.len());
        bytes[at] ^= 1 << numbers.below(8);
    }
    Case { how: format!("{path} with {flips} flipped bits"), bytes }
}

/// Sections of two fixtures, in random order and number.
fn shuffled(numbers: &mut Numbers) -> Case {
    let ((path, bytes), (other, others)) = (whole(numbers), whole(numbers));
    let parts = [&bytes, &others].map(|module| {
        sections(module).into_iter().map(|[start, _, end]| &module[start..end]).collect::<Vec<_>>()
    });
    let mut parts = parts.concat();
    let keep = 1 + numbers.below(parts.len());
    for at in 0..keep {
        let from = numbers.below(parts.len());
        parts.swap(at, from);
    }
    let bytes = [&bytes[..8], &parts[..keep].concat()].concat();
    Case { how: format!("{keep} sections of {path} and {other}"), bytes }
}
