//! openEuler WasmEngine's two conventions: JSON in, a string out.
//!
//! A core export `(ptr, len) -> (ptr, len)` finds its JSON at `__heap_base`, in a page that the host added. A program
//! finds it as its `argv[0]`, and of what it prints one newline at the end is not the answer.

use bytes::Bytes;
use serde::de::IgnoredAny;
use wasmtime::{Extern, ModuleExport};

use super::{Output, Wanted, command, linear};
use crate::{Call, CallError, Format, Reservation, instance::Instance};

/// An export of one of the two.
pub(crate) enum Target {
    Core { export: ModuleExport, memory: ModuleExport, heap_base: ModuleExport },
    Program(command::Target),
}

/// One call's JSON.
pub(crate) struct Arguments {
    json: String,
    /// Holds what a program writes to stdout.
    reservation: Reservation,
}

const HEAP_BASE: &str = "__heap_base";

impl Arguments {
    pub(crate) fn new(call: &Call, held: &Reservation) -> Result<Self, CallError> {
        let wrong = |why: String| CallError::BadArguments(why);
        if call.format != Format::Json {
            return Err(wrong("this function takes JSON, not bytes or text".to_owned()));
        }
        let text = std::str::from_utf8(&call.body).map_err(|error| wrong(error.to_string()))?.trim_ascii();
        let json = if text.is_empty() { "{}" } else { text };
        serde_json::from_str::<IgnoredAny>(json).map_err(|error| wrong(error.to_string()))?;
        // Twice: a program's WASI holds it too.
        held.try_grow(2 * json.len() as u64)?;
        Ok(Self { json: json.to_owned(), reservation: held.new_empty() })
    }
}

impl Target {
    /// `None` where the module or the export is not of this convention.
    pub(crate) fn core(module: &wasmtime::Module, name: &str) -> Option<Self> {
        let is_i32 = |global: &wasmtime::GlobalType| global.content().is_i32();
        let has_base = module.get_export(HEAP_BASE)?.global().is_some_and(is_i32);
        let memory = linear::memory(module)?;
        let (export, heap_base) = (module.get_export_index(name)?, module.get_export_index(HEAP_BASE)?);
        (has_base && linear::is_of(module, name, 2, 2)).then_some(Self::Core { export, memory, heap_base })
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        Arguments { json, reservation }: Arguments,
        wanted: Wanted,
    ) -> Result<Output, CallError> {
        let body = match self {
            Self::Core { export, memory, heap_base } => {
                call(instance, [export, memory, heap_base], json.as_bytes(), wanted.limit).await?
            }
            Self::Program(program) => {
                let arguments = command::Arguments { argv: vec![json], stdin: Bytes::new(), reservation };
                let mut stdout = program.stdout(instance, arguments, wanted.limit).await?;
                if stdout.ends_with(b"\n") {
                    stdout.truncate(stdout.len() - 1);
                }
                stdout
            }
        };
        Ok(Output::text(body, wanted))
    }
}

async fn call(
    instance: &mut Instance,
    [export, memory, heap_base]: [&ModuleExport; 3],
    json: &[u8],
    limit: u64,
) -> Result<Bytes, CallError> {
    let guest = |error: wasmtime::Error| CallError::of_guest(&error);
    let length = linear::length(json)?;
    let (core, store) = instance.core()?;
    let [export, memory, heap_base] =
        [export, memory, heap_base].map(|export| core.get_module_export(&mut *store, export));
    let (Some(Extern::Func(func)), Some(Extern::Memory(memory)), Some(Extern::Global(heap_base))) =
        (export, memory, heap_base)
    else {
        return Err(linear::missing_export());
    };
    let base = heap_base.get(&mut *store).unwrap_i32().cast_unsigned();
    linear::grow_for(store, memory, base, length).map_err(guest)?;
    linear::write(memory.data_mut(&mut *store), base, json).map_err(guest)?;
    let func = func.typed::<(u32, u32), (u32, u32)>(&*store).map_err(guest)?;
    let (pointer, length) = func.call_async(&mut *store, (base, length)).await.map_err(guest)?;
    linear::read(memory.data(&*store), pointer, length, limit)
}
