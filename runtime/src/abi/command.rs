//! Command: a program. The body is its stdin, and its arguments if it is a JSON array of strings; its stdout is the
//! answer.

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

/// The entry of a program: `_start` of WASI preview 1, or the `run` of `wasi:cli/run`.
pub(crate) struct Target {
    entry: Entry,
    /// The program's `argv[0]`.
    name: String,
}

enum Entry {
    Core(ModuleExport),
    Component(ComponentExportIndex),
}

/// The arguments and stdin of one run.
pub(crate) struct Arguments {
    pub(crate) argv: Vec<String>,
    pub(crate) stdin: Bytes,
    /// For the stdout of the program.
    pub(crate) reservation: Reservation,
}

impl Target {
    /// `None` if `_start` has parameters or results.
    pub(crate) fn core(export: ModuleExport, ty: &wasmtime::FuncType, name: &str) -> Option<Self> {
        let takes_nothing = ty.params().len() + ty.results().len() == 0;
        takes_nothing.then(|| Self { entry: Entry::Core(export), name: name.to_owned() })
    }

    /// `None` if it is no `func() -> result`.
    pub(crate) fn component(export: ComponentExportIndex, ty: &ComponentFunc, name: &str) -> Option<Self> {
        let gives_a_result = |ty| matches!(ty, Type::Result(ty) if ty.ok().is_none() && ty.err().is_none());
        let fits = ty.params().len() == 0 && ty.results().len() == 1 && ty.results().all(gives_a_result);
        fits.then(|| Self { entry: Entry::Component(export), name: name.to_owned() })
    }

    pub(crate) fn arguments(&self, call: Call, held: &Reservation) -> Result<Arguments, CallError> {
        let strings = if call.format == Format::Json { strings(&call.body) } else { None };
        let strings = strings.unwrap_or_default();
        if strings.iter().any(|argument| argument.contains('\0')) {
            return Err(CallError::BadArguments("an argument of a program must not contain NUL".to_owned()));
        }
        // Twice: the program's WASI context holds a copy.
        held.try_grow(2 * (call.body.len() + strings.len() * size_of::<String>()) as u64)?;
        let argv = std::iter::once(self.name.clone()).chain(strings).collect();
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

    /// Runs the program and returns its stdout.
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
        let stderr = stderr.take()?;
        let stderr = String::from_utf8_lossy(stderr.trim_ascii());
        let why = match &*stderr {
            "" => format!("it exited with status {status} and wrote nothing to stderr"),
            stderr => format!("it exited with status {status}: {stderr}"),
        };
        Err(CallError::GuestError(serde_json::Value::String(why).to_string()))
    }
}

impl Entry {
    /// Runs the program until it returns, and gives its status. An `exit` is an error here.
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

/// Parses an array of strings; `None` if the body is something else.
fn strings(body: &[u8]) -> Option<Vec<String>> {
    // Anything else is stdin, and need not be parsed to its end.
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
    fn only_an_array_of_strings_becomes_arguments() {
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
