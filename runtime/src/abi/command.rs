//! Command: a program. The body is its stdin, a JSON array of strings is its arguments too, stdout is its answer.

use bytes::Bytes;
use serde::Deserialize as _;
use wasmtime::{
    ModuleExport,
    component::{
        ComponentExportIndex,
        types::{ComponentFunc, Type},
    },
};
use wasmtime_wasi::{I32Exit, p2::pipe::MemoryInputPipe};

use super::{Output, Wanted};
use crate::{Call, CallError, Format, Reservation, instance::Instance};

/// A program's entry: `_start` of WASI preview 1, or the `run` of `wasi:cli/run`.
pub(crate) struct Target {
    entry: Entry,
    /// What the program is told that it is called.
    name: String,
}

enum Entry {
    Core(ModuleExport),
    Component(ComponentExportIndex),
}

/// What one run of a program is given.
pub(crate) struct Arguments {
    pub(crate) argv: Vec<String>,
    pub(crate) stdin: Bytes,
    /// Holds what it writes to stdout.
    pub(crate) reservation: Reservation,
}

impl Target {
    /// `None` where `_start` takes or gives something.
    pub(crate) fn core(export: ModuleExport, ty: &wasmtime::FuncType, name: &str) -> Option<Self> {
        let takes_nothing = ty.params().len() + ty.results().len() == 0;
        takes_nothing.then(|| Self { entry: Entry::Core(export), name: name.to_owned() })
    }

    /// `None` where it is no `func() -> result`.
    pub(crate) fn component(export: ComponentExportIndex, ty: &ComponentFunc, name: &str) -> Option<Self> {
        let gives_a_result = |ty| matches!(ty, Type::Result(ty) if ty.ok().is_none() && ty.err().is_none());
        let fits = ty.params().len() == 0 && ty.results().len() == 1 && ty.results().all(gives_a_result);
        fits.then(|| Self { entry: Entry::Component(export), name: name.to_owned() })
    }

    pub(crate) fn arguments(&self, call: Call, held: &Reservation) -> Result<Arguments, CallError> {
        let given = if call.format == Format::Json { strings(&call.body) } else { None }.unwrap_or_default();
        if given.iter().any(|argument| argument.contains('\0')) {
            return Err(CallError::BadArguments("an argument of a program has no NUL in it".to_owned()));
        }
        // Twice: the program's WASI holds them too.
        held.try_grow(2 * (call.body.len() + given.len() * size_of::<String>()) as u64)?;
        let argv = std::iter::once(self.name.clone()).chain(given).collect();
        Ok(Arguments { argv, stdin: call.body, reservation: held.new_empty() })
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        arguments: Arguments,
        wanted: Wanted,
    ) -> Result<Output, CallError> {
        let body = self.stdout(instance, arguments, wanted.limit).await?;
        Ok(Output::text(body, wanted))
    }

    /// What the program writes to stdout.
    pub(crate) async fn stdout(
        &self,
        instance: &mut Instance,
        Arguments { argv, stdin, reservation }: Arguments,
        limit: u64,
    ) -> Result<Bytes, CallError> {
        let stdin = MemoryInputPipe::new(stdin);
        let (stdout, stderr) = instance.host().set_program(argv, stdin, limit, reservation);
        let ended = self.entry.run(instance).await;
        let stdout = stdout.take()?;
        let status = match ended {
            Ok(status) => status,
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(exit) => exit.0,
                None => return Err(CallError::of_guest(&error)),
            },
        };
        if status == 0 {
            return Ok(stdout);
        }
        let said = stderr.take()?;
        let said = String::from_utf8_lossy(said.trim_ascii());
        let why = match &*said {
            "" => format!("it exited with status {status} and wrote nothing to stderr"),
            said => format!("it exited with status {status}: {said}"),
        };
        Err(CallError::GuestError(serde_json::Value::String(why).to_string()))
    }
}

impl Entry {
    /// The status that the program returns, where it returns.
    async fn run(&self, instance: &mut Instance) -> wasmtime::Result<i32> {
        let missing = |_| wasmtime::Error::msg("its instance lacks the entry that its module has");
        match self {
            Self::Core(export) => {
                let (func, store) = instance.core_func(export).map_err(missing)?;
                func.typed::<(), ()>(&mut *store)?.call_async(store, ()).await?;
                Ok(0)
            }
            Self::Component(export) => {
                let (component, store) = instance.component().map_err(missing)?;
                let run = component.get_typed_func::<(), (Result<(), ()>,)>(&mut *store, *export)?;
                let (ended,) = run.call_async(store, ()).await?;
                Ok(i32::from(ended.is_err()))
            }
        }
    }
}

/// The body as an array of strings, where it is one.
fn strings(body: &[u8]) -> Option<Vec<String>> {
    // Whatever else it is need not be read to its end.
    if !body.trim_ascii_start().starts_with(b"[") {
        return None;
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let strings = Vec::deserialize(&mut json).ok()?;
    json.end().ok().map(|()| strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_array_of_strings_is_arguments() {
        for (body, arguments) in [
            (r#"["-n", "ä"]"#, Some(vec!["-n", "ä"])),
            (" [] ", Some(vec![])),
            ("[1]", None),
            (r#"["a"] b"#, None),
            (r#"{"a": 1}"#, None),
            ("", None),
        ] {
            let arguments = arguments.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(strings(body.as_bytes()), arguments, "{body}");
        }
    }
}
