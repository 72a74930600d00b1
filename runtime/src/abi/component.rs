//! Component: a typed export. Arguments and result are JSON, by the types of the export.

use std::{fmt, io};

use bytes::Bytes;
use wasmtime::component::{ComponentExportIndex, Val, types::ComponentFunc};

use super::{Output, Wanted};
use crate::{
    Call, CallError, Format, Reservation,
    instance::{Instance, missing_export},
    wit::{self, Json, NotCallable, Type, TypeSize},
};

/// A component's export whose types have a JSON form.
pub(crate) struct Target {
    export: ComponentExportIndex,
    params: Vec<(String, Type)>,
    result: Option<Type>,
}

/// The parsed arguments. Bytes stay bytes, since a WIT value for each of them would take forty.
pub(crate) enum Arguments {
    Values(Vec<Val>),
    Bytes(Bytes),
}

impl Target {
    pub(crate) fn new(export: ComponentExportIndex, ty: &ComponentFunc) -> Result<Self, NotCallable> {
        let mut budget = TypeSize::new();
        let params = ty.params().map(|(name, ty)| Ok((name.to_owned(), Type::new(&ty, &mut budget)?)));
        Ok(Self {
            export,
            params: params.collect::<Result<_, _>>()?,
            result: ty.results().next().map(|ty| Type::new(&ty, &mut budget)).transpose()?,
        })
    }

    /// True if its only parameter is a `list<u8>`.
    pub(crate) fn takes_bytes(&self) -> bool {
        matches!(&self.params[..], [(_, Type::Bytes)])
    }

    fn is_bytes_to_bytes(&self) -> bool {
        self.takes_bytes() && self.result == Some(Type::Bytes)
    }

    pub(crate) fn arguments(&self, call: Call, held: &Reservation) -> Result<Arguments, CallError> {
        match call.format {
            Format::Json => wit::arguments(&call.body, &self.params, held).map(Arguments::Values),
            Format::Bytes if self.is_bytes_to_bytes() => Ok(Arguments::Bytes(call.body)),
            Format::Bytes if self.takes_bytes() => {
                held.try_grow((call.body.len() * size_of::<Val>()) as u64)?;
                let bytes = call.body.iter().copied().map(Val::U8).collect();
                Ok(Arguments::Values(vec![Val::List(bytes)]))
            }
            Format::Bytes | Format::Text => {
                Err(CallError::BadArguments("this function takes JSON, not bytes or text".to_owned()))
            }
        }
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        arguments: Arguments,
        wanted: Wanted,
    ) -> Result<Output, CallError> {
        let guest = |error: wasmtime::Error| CallError::of_guest(&error);
        let host_bytes = host_bytes(wanted.limit, instance.result_bytes);
        let (component, store) = instance.component()?;
        store.set_hostcall_fuel(host_bytes);
        let func = component.get_func(&mut *store, self.export).ok_or_else(missing_export)?;
        let values = match arguments {
            Arguments::Values(values) => values,
            Arguments::Bytes(bytes) => {
                let func = func.typed::<(&[u8],), (Vec<u8>,)>(&*store).map_err(guest)?;
                let (answer,) = func.call_async(&mut *store, (&bytes,)).await.map_err(guest)?;
                return bytes_output(answer, wanted.limit);
            }
        };
        let mut results = [const { Val::Bool(false) }; 1];
        let results = &mut results[..usize::from(self.result.is_some())];
        func.call_async(&mut *store, &values, results).await.map_err(guest)?;
        match (results.first(), &self.result) {
            (Some(Val::Result(Err(payload))), Some(Type::Result(_, ty))) => {
                let json = encode(payload.as_deref().zip(ty.as_deref()), wanted.limit)?;
                Err(CallError::GuestError(String::from_utf8_lossy(&json).into_owned()))
            }
            (Some(Val::Result(Ok(payload))), Some(Type::Result(ty, _))) => {
                output(payload.as_deref().zip(ty.as_deref()), wanted)
            }
            (value, ty) => output(value.zip(ty.as_ref()), wanted),
        }
    }
}

/// The most bytes that the host allocates while it reads a result: WIT values are larger than the JSON that they become,
/// and a guest must not make the host allocate without bound, nor more than the node has.
fn host_bytes(limit: u64, most: u64) -> usize {
    const FACTOR: u64 = 8;
    const FLOOR: u64 = 1 << 20;
    let bytes = limit.saturating_mul(FACTOR).saturating_add(FLOOR).min(most.max(FLOOR));
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn output(result: Option<(&Val, &Type)>, wanted: Wanted) -> Result<Output, CallError> {
    if let (Some((Val::List(values), Type::Bytes)), true) = (result, wanted.bytes) {
        return bytes_output(wit::bytes(values), wanted.limit);
    }
    Ok(Output { body: encode(result, wanted.limit)?.into(), format: Format::Json })
}

fn bytes_output(answer: Vec<u8>, limit: u64) -> Result<Output, CallError> {
    if answer.len() as u64 > limit {
        return Err(CallError::ResponseTooLarge { limit });
    }
    Ok(Output { body: answer.into(), format: Format::Bytes })
}

fn encode(value: Option<(&Val, &Type)>, limit: u64) -> Result<Vec<u8>, CallError> {
    let mut capped =
        Capped { bytes: Vec::with_capacity(128), limit: usize::try_from(limit).unwrap_or(usize::MAX) };
    let written = match value {
        Some((value, ty)) => serde_json::to_writer(&mut capped, &Json(value, ty)),
        None => serde_json::to_writer(&mut capped, &()),
    };
    match written {
        Ok(()) => Ok(capped.bytes),
        Err(error) if error.is_io() => Err(CallError::ResponseTooLarge { limit }),
        Err(error) => Err(CallError::trap(error.to_string())),
    }
}

/// A buffer that does not grow past its limit.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Displays a function's type in WIT syntax: `func(text: string) -> string`. A type without a JSON form is `_`.
pub(crate) struct Signature<'a>(pub(crate) &'a ComponentFunc);

impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut budget = TypeSize::new();
        let mut name = |ty| Type::new(&ty, &mut budget).map_or_else(|_| "_".to_owned(), |ty| ty.to_string());
        let params: Vec<_> = self.0.params().map(|(param, ty)| format!("{param}: {}", name(ty))).collect();
        write!(f, "func({})", params.join(", "))?;
        self.0.results().next().map_or(Ok(()), |ty| write!(f, " -> {}", name(ty)))
    }
}
