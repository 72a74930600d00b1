//! Buffer: `f(ptr, len) -> i64` over the module's memory: bytes in, bytes out.
//!
//! The host calls the module's `alloc` (or `malloc`), writes the body into that allocation and calls `f`; the result is
//! `ptr << 32 | len` of the answer. Nothing is freed: the memory ends with its instance.

use wasmtime::{FuncType, Module, ModuleExport, ValType};

use super::{
    Output,
    linear::{self, Allocation, CoreInstance},
};
use crate::{CallError, Format, instance::Instance};

/// A core export of the Buffer ABI, with the exports that it needs.
pub(crate) struct Target {
    export: ModuleExport,
    memory: ModuleExport,
    allocation: Allocation,
}

impl Target {
    /// `None` if the module or the export is not of this ABI.
    pub(crate) fn new(module: &Module, export: ModuleExport, ty: &FuncType) -> Option<Self> {
        let is_i32 = |ty: ValType| ty.is_i32();
        let (mut params, mut results) = (ty.params(), ty.results());
        let fits =
            params.len() == 2 && params.all(is_i32) && results.len() == 1 && results.all(|ty| ty.is_i64());
        let (memory, allocation) = (linear::memory(module)?, Allocation::exported(module)?);
        fits.then_some(Self { export, memory, allocation })
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        body: &[u8],
        limit: u64,
    ) -> Result<Output, CallError> {
        let mut core = CoreInstance::new(instance, &self.memory)?;
        let arguments = core.allocate(&self.allocation, body).await?;
        let (pointer, length) = unpacked(core.call(&self.export, arguments).await?);
        Ok(Output { body: core.answer(pointer, length, limit)?, format: Format::Bytes })
    }
}

/// Unpacks `ptr << 32 | len`.
pub(super) fn unpacked(packed: u64) -> (u32, u32) {
    let [p0, p1, p2, p3, l0, l1, l2, l3] = packed.to_be_bytes();
    (u32::from_be_bytes([p0, p1, p2, p3]), u32::from_be_bytes([l0, l1, l2, l3]))
}
