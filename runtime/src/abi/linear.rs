//! A core module's linear memory: bytes that the host puts into it, and bytes that the guest points at.

use bytes::Bytes;
use wasmtime::{Error, Extern, Memory, ModuleExport, Store};

use crate::{CallError, host::Host, instance::MISSING};

/// Where the host puts bytes.
pub(super) enum Allocation {
    /// Where the module's own allocator says.
    Allocated(ModuleExport),
    /// Past what the module has: its memory is grown by as much as is needed.
    AtTheEnd,
}

/// The names under which modules export their allocator, in the order in which they are looked for.
const ALLOCATORS: [&str; 2] = ["alloc", "malloc"];
const PAGE: u64 = 1 << 16;

/// The module's 32-bit `memory`, where it exports one.
pub(super) fn memory(module: &wasmtime::Module) -> Option<ModuleExport> {
    let is_32 = module.get_export("memory")?.memory().is_some_and(|memory| !memory.is_64());
    module.get_export_index("memory").filter(|_| is_32)
}

/// The module's allocator, where it exports one.
pub(super) fn allocator(module: &wasmtime::Module) -> Option<ModuleExport> {
    let name = ALLOCATORS.into_iter().find(|name| is_of(module, name, 1, 1))?;
    module.get_export_index(name)
}

/// Whether the module exports a function of so many `i32` parameters and results.
pub(super) fn is_of(module: &wasmtime::Module, name: &str, params: usize, results: usize) -> bool {
    module.get_export(name).is_some_and(|export| {
        export.func().is_some_and(|ty| {
            ty.params().len() == params
                && ty.results().len() == results
                && ty.params().chain(ty.results()).all(|ty| ty.is_i32())
        })
    })
}

impl Allocation {
    pub(super) fn of(module: &wasmtime::Module) -> Self {
        allocator(module).map_or(Self::AtTheEnd, Self::Allocated)
    }

    /// Puts bytes into the memory, and says where they are.
    pub(super) async fn put(
        &self,
        core: wasmtime::Instance,
        store: &mut Store<Host>,
        memory: Memory,
        bytes: &[u8],
    ) -> wasmtime::Result<u32> {
        let length = u32::try_from(bytes.len())?;
        let pointer = match self {
            Self::Allocated(alloc) => {
                let alloc = core.get_module_export(&mut *store, alloc).and_then(Extern::into_func);
                let alloc = alloc.ok_or_else(|| Error::msg(MISSING))?.typed::<u32, u32>(&*store)?;
                alloc.call_async(&mut *store, length).await?
            }
            Self::AtTheEnd => {
                let end = memory.data_size(&*store) as u64;
                memory.grow(&mut *store, u64::from(length).div_ceil(PAGE).max(1))?;
                u32::try_from(end)?
            }
        };
        write(memory.data_mut(&mut *store), pointer, bytes)?;
        Ok(pointer)
    }
}

/// Grows the memory by a page, or by as many as it takes that `length` bytes are at `pointer`.
pub(super) fn grow_for(
    store: &mut Store<Host>,
    memory: Memory,
    pointer: u32,
    length: u32,
) -> wasmtime::Result<()> {
    let missing = (u64::from(pointer) + u64::from(length)).saturating_sub(memory.data_size(&*store) as u64);
    memory.grow(store, missing.div_ceil(PAGE).max(1)).map(drop)
}

/// Writes bytes where the guest has room for them.
pub(super) fn write(memory: &mut [u8], pointer: u32, bytes: &[u8]) -> wasmtime::Result<()> {
    let length = bytes.len();
    let room = memory.get_mut(pointer as usize..).and_then(|rest| rest.get_mut(..length));
    let past = || Error::msg(format!("its room for {length} bytes at {pointer} is past its memory's end"));
    room.ok_or_else(past)?.copy_from_slice(bytes);
    Ok(())
}

/// The bytes that a guest points at.
pub(super) fn read(memory: &[u8], pointer: u32, length: u32, most: u64) -> Result<Bytes, CallError> {
    if u64::from(length) > most {
        return Err(CallError::ResponseTooLarge { limit: most });
    }
    let answer = memory.get(pointer as usize..).and_then(|rest| rest.get(..length as usize));
    answer.map(Bytes::copy_from_slice).ok_or_else(|| {
        out_of_bounds(format!("its answer of {length} bytes at {pointer} is past its memory's end"))
    })
}

/// The length of bytes that a guest is given.
pub(super) fn length(bytes: &[u8]) -> Result<u32, CallError> {
    u32::try_from(bytes.len()).map_err(|_| CallError::TooLarge { limit: u64::from(u32::MAX) })
}

pub(super) fn out_of_bounds(message: String) -> CallError {
    CallError::Trap { message, backtrace: Vec::new() }
}

pub(super) fn missing_export() -> CallError {
    CallError::NotCallable(MISSING.to_owned())
}
