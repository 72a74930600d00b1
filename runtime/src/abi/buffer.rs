//! Buffer: `f(ptr, len) -> i64` over the module's memory: bytes in, bytes out.
//!
//! The host asks the module's `alloc` (or `malloc`) for allocation, writes the body there and calls `f`; the result is
//! `ptr << 32 | len` of the answer. Nothing is freed: the instance ends with its call, or with its reuse.

use wasmtime::{Extern, ModuleExport};

use super::{
    Output,
    linear::{allocator, length, memory, missing_export, out_of_bounds, read, write},
};
use crate::{CallError, Format, instance::Instance};

/// A core export of the buffer convention, with the exports that it needs.
pub(crate) struct Target {
    export: ModuleExport,
    memory: ModuleExport,
    alloc: ModuleExport,
}

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
        let (memory, alloc) = (memory(module)?, allocator(module)?);
        fits.then_some(Self { export, memory, alloc })
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        body: &[u8],
        limit: u64,
    ) -> Result<Output, CallError> {
        let guest = |error: wasmtime::Error| CallError::of_guest(&error);
        let length = length(body)?;
        let (core, store) = instance.core()?;
        let export = |store: &mut wasmtime::Store<_>, export| core.get_module_export(store, export);
        let func = |ext: Option<Extern>| ext.and_then(Extern::into_func).ok_or_else(missing_export);
        let alloc = func(export(store, &self.alloc))?.typed::<u32, u32>(&mut *store).map_err(guest)?;
        let call = func(export(store, &self.export))?.typed::<(u32, u32), u64>(&mut *store).map_err(guest)?;
        let memory = export(store, &self.memory).and_then(Extern::into_memory).ok_or_else(missing_export)?;

        let pointer = alloc.call_async(&mut *store, length).await.map_err(guest)?;
        write(memory.data_mut(&mut *store), pointer, body).map_err(|_| {
            out_of_bounds(format!("its allocator gave {length} bytes at {pointer}, past its memory's end"))
        })?;
        let packed = call.call_async(&mut *store, (pointer, length)).await.map_err(guest)?;
        let (pointer, length) = unpacked(packed);
        let body = read(memory.data(&*store), pointer, length, limit)?;
        Ok(Output { body, format: Format::Bytes })
    }
}

/// `ptr` and `len` of `ptr << 32 | len`.
pub(super) fn unpacked(packed: u64) -> (u32, u32) {
    let [p0, p1, p2, p3, l0, l1, l2, l3] = packed.to_be_bytes();
    (u32::from_be_bytes([p0, p1, p2, p3]), u32::from_be_bytes([l0, l1, l2, l3]))
}
