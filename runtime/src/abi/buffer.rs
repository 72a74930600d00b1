//! Buffer: `f(ptr, len) -> i64` over the module's memory: bytes in, bytes out.
//!
//! The host asks the module's `alloc` (or `malloc`) for room, writes the body there and calls `f`; the result is
//! `ptr << 32 | len` of the answer. Nothing is freed: the instance ends with its call, or with its reuse.

use bytes::Bytes;
use wasmtime::{Extern, ModuleExport};

use super::Output;
use crate::{CallError, Format, instance::Instance};

/// A core export of the buffer convention, with the exports that it needs.
pub(crate) struct Target {
    export: ModuleExport,
    memory: ModuleExport,
    alloc: ModuleExport,
}

/// The names under which modules export their allocator, in the order in which they are looked for.
const ALLOCATORS: [&str; 2] = ["alloc", "malloc"];

impl Target {
    /// `None` where the module or the export is not of this convention.
    pub(crate) fn new(
        module: &wasmtime::Module,
        export: ModuleExport,
        ty: &wasmtime::FuncType,
    ) -> Option<Self> {
        let is_i32 = |ty: wasmtime::ValType| ty.is_i32();
        let (mut params, mut results) = (ty.params(), ty.results());
        let fits =
            params.len() == 2 && params.all(is_i32) && results.len() == 1 && results.all(|ty| ty.is_i64());
        if !fits || module.get_export("memory")?.memory().is_none_or(wasmtime::MemoryType::is_64) {
            return None;
        }
        let alloc = ALLOCATORS.into_iter().find(|name| is_allocator(module, name))?;
        Some(Self {
            export,
            memory: module.get_export_index("memory")?,
            alloc: module.get_export_index(alloc)?,
        })
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        body: &[u8],
        response_bytes: u64,
    ) -> Result<Output, CallError> {
        let guest = |error: wasmtime::Error| CallError::of_guest(&error);
        let length =
            u32::try_from(body.len()).map_err(|_| CallError::TooLarge { limit: u64::from(u32::MAX) })?;
        let (core, store) = instance.core()?;
        let export = |store: &mut wasmtime::Store<_>, export| core.get_module_export(store, export);
        let func = |ext: Option<Extern>| ext.and_then(Extern::into_func).ok_or_else(missing);
        let alloc = func(export(store, &self.alloc))?.typed::<u32, u32>(&mut *store).map_err(guest)?;
        let call = func(export(store, &self.export))?.typed::<(u32, u32), u64>(&mut *store).map_err(guest)?;
        let memory = export(store, &self.memory).and_then(Extern::into_memory).ok_or_else(missing)?;

        let pointer = alloc.call_async(&mut *store, length).await.map_err(guest)?;
        let room = range(memory.data_mut(&mut *store), pointer, length);
        room.ok_or_else(|| {
            lied(format!("its allocator gave {length} bytes at {pointer}, past its memory's end"))
        })?
        .copy_from_slice(body);
        let packed = call.call_async(&mut *store, (pointer, length)).await.map_err(guest)?;
        let [p0, p1, p2, p3, l0, l1, l2, l3] = packed.to_be_bytes();
        let (pointer, length) = (u32::from_be_bytes([p0, p1, p2, p3]), u32::from_be_bytes([l0, l1, l2, l3]));
        if u64::from(length) > response_bytes {
            return Err(CallError::ResponseTooLarge { limit: response_bytes });
        }
        let answer = range(memory.data_mut(&mut *store), pointer, length);
        let answer = answer.ok_or_else(|| {
            lied(format!("its answer of {length} bytes at {pointer} is past its memory's end"))
        })?;
        Ok(Output { body: Bytes::copy_from_slice(answer), format: Format::Bytes })
    }
}

fn is_allocator(module: &wasmtime::Module, name: &str) -> bool {
    module.get_export(name).is_some_and(|export| {
        export.func().is_some_and(|ty| {
            ty.params().len() == 1
                && ty.results().len() == 1
                && ty.params().chain(ty.results()).all(|ty| ty.is_i32())
        })
    })
}

fn range(memory: &mut [u8], pointer: u32, length: u32) -> Option<&mut [u8]> {
    memory.get_mut(pointer as usize..)?.get_mut(..length as usize)
}

fn lied(message: String) -> CallError {
    CallError::Trap { message, backtrace: Vec::new() }
}

fn missing() -> CallError {
    CallError::NotCallable("its instance lacks an export that its module has".to_owned())
}
