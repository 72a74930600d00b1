//! The two calling conventions of openEuler's WasmEngine: JSON in, a string out.
//!
//! A core export `(ptr, len) -> (ptr, len)` finds its JSON at `__heap_base`, in a page that the host adds. A program
//! finds it as its `argv[0]`; one newline at the end of its output is not part of the answer.

use bytes::Bytes;
use serde::de::IgnoredAny;
use wasmtime::{GlobalType, Module, ModuleExport};

use super::{
    Output, Wanted, command,
    linear::{self, CoreInstance},
};
use crate::{Call, CallError, Format, Reservation, instance::Instance};

/// An export of one of the two conventions.
pub(crate) enum Target {
    Core { export: ModuleExport, memory: ModuleExport, heap_base: ModuleExport },
    Program(command::Target),
}

/// The JSON of one call.
pub(crate) struct Arguments {
    json: String,
    /// For the stdout of a program.
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
        // Twice: a program's WASI context holds a copy.
        held.try_grow(2 * json.len() as u64)?;
        Ok(Self { json: json.to_owned(), reservation: held.new_empty() })
    }
}

impl Target {
    /// `None` if the module or the export is not of this convention.
    pub(crate) fn core(module: &Module, name: &str) -> Option<Self> {
        let is_i32 = |global: &GlobalType| global.content().is_i32();
        let has_base = module.get_export(HEAP_BASE)?.global().is_some_and(is_i32);
        let memory = linear::memory(module)?;
        let (export, heap_base) = (module.get_export_index(name)?, module.get_export_index(HEAP_BASE)?);
        (has_base && linear::has_func(module, name, 2, 2)).then_some(Self::Core { export, memory, heap_base })
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        Arguments { json, reservation }: Arguments,
        wanted: Wanted,
    ) -> Result<Output, CallError> {
        let body = match self {
            Self::Core { export, memory, heap_base } => {
                let mut core = CoreInstance::new(instance, memory)?;
                let base = core.global(heap_base)?;
                let length = core.write_grown(base, json.as_bytes())?;
                let (pointer, length) = core.call(export, (base, length)).await?;
                core.answer(pointer, length, wanted.limit)?
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
