//! Passes bytes to and from core modules, through their linear memory.

use bytes::Bytes;
use wasmtime::{Extern, Memory, Module, ModuleExport, Store, WasmParams, WasmResults};

use crate::{
    CallError,
    host::Host,
    instance::{Instance, missing_export},
};

/// An instance of a core module, with its store and its linear memory.
pub(super) struct CoreInstance<'a> {
    instance: wasmtime::Instance,
    store: &'a mut Store<Host>,
    memory: Memory,
}

/// The host's way to allocate memory in a guest.
pub(super) enum Allocation {
    /// Calls the module's own allocator.
    Exported(ModuleExport),
    /// Grows the memory by as much as is needed.
    AtTheEnd,
}

/// The names under which modules export their allocator, by precedence.
const ALLOCATORS: [&str; 2] = ["alloc", "malloc"];
const PAGE: u64 = 1 << 16;

/// The module's 32-bit `memory`, if it exports one.
pub(super) fn memory(module: &Module) -> Option<ModuleExport> {
    let is_32 = module.get_export("memory")?.memory().is_some_and(|memory| !memory.is_64());
    module.get_export_index("memory").filter(|_| is_32)
}

/// True if the module exports a function of so many `i32` parameters and results.
pub(super) fn has_func(module: &Module, name: &str, params: usize, results: usize) -> bool {
    module.get_export(name).is_some_and(|export| {
        export.func().is_some_and(|ty| {
            ty.params().len() == params
                && ty.results().len() == results
                && ty.params().chain(ty.results()).all(|ty| ty.is_i32())
        })
    })
}

impl Allocation {
    /// The module's allocator, if it exports one.
    pub(super) fn exported(module: &Module) -> Option<Self> {
        let name = ALLOCATORS.into_iter().find(|name| has_func(module, name, 1, 1))?;
        module.get_export_index(name).map(Self::Exported)
    }
}

impl<'a> CoreInstance<'a> {
    pub(super) fn new(instance: &'a mut Instance, memory: &ModuleExport) -> Result<Self, CallError> {
        let (instance, store) = instance.core()?;
        let memory = instance.get_module_export(&mut *store, memory).and_then(Extern::into_memory);
        Ok(Self { instance, store, memory: memory.ok_or_else(missing_export)? })
    }

    /// Calls an export.
    pub(super) async fn call<P, R>(&mut self, export: &ModuleExport, params: P) -> Result<R, CallError>
    where
        P: WasmParams + Sync,
        R: WasmResults + Sync,
    {
        let func = self.export(export).and_then(Extern::into_func).ok_or_else(missing_export)?;
        let func = func.typed::<P, R>(&*self.store).map_err(|error| CallError::of_guest(&error))?;
        func.call_async(&mut *self.store, params).await.map_err(|error| CallError::of_guest(&error))
    }

    /// The value of an `i32` global.
    pub(super) fn global(&mut self, export: &ModuleExport) -> Result<u32, CallError> {
        let global = self.export(export).and_then(Extern::into_global).ok_or_else(missing_export)?;
        let value = global.get(&mut *self.store).i32().ok_or_else(missing_export)?;
        Ok(value.cast_unsigned())
    }

    fn export(&mut self, export: &ModuleExport) -> Option<Extern> {
        self.instance.get_module_export(&mut *self.store, export)
    }

    /// Writes bytes into newly allocated memory. Returns their pointer and length.
    pub(super) async fn allocate(
        &mut self,
        allocation: &Allocation,
        bytes: &[u8],
    ) -> Result<(u32, u32), CallError> {
        let length = length(bytes)?;
        let pointer = match allocation {
            Allocation::Exported(alloc) => self.call(alloc, length).await?,
            Allocation::AtTheEnd => {
                let end = self.memory.data_size(&*self.store) as u64;
                self.grow(end, length)?;
                u32::try_from(end).map_err(|_| CallError::trap("its memory has no room for more"))?
            }
        };
        self.write(pointer, bytes)?;
        Ok((pointer, length))
    }

    /// Writes bytes at `pointer`, after growing the memory by at least a page. Returns their length.
    pub(super) fn write_grown(&mut self, pointer: u32, bytes: &[u8]) -> Result<u32, CallError> {
        let length = length(bytes)?;
        self.grow(u64::from(pointer), length)?;
        self.write(pointer, bytes)?;
        Ok(length)
    }

    /// Grows the memory by a page, or by as many as `length` bytes at `pointer` need.
    fn grow(&mut self, pointer: u64, length: u32) -> Result<(), CallError> {
        let missing =
            (pointer + u64::from(length)).saturating_sub(self.memory.data_size(&*self.store) as u64);
        let grown = self.memory.grow(&mut *self.store, missing.div_ceil(PAGE).max(1));
        grown.map(drop).map_err(|error| CallError::of_guest(&error))
    }

    fn write(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), CallError> {
        let length = bytes.len();
        let memory = self.memory.data_mut(&mut *self.store);
        let allocated = memory.get_mut(pointer as usize..).and_then(|rest| rest.get_mut(..length));
        let past = || {
            CallError::trap(format!("its allocator gave {length} bytes at {pointer}, past its memory's end"))
        };
        allocated.ok_or_else(past)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Copies an answer of `length` bytes at `pointer`, of at most `limit` bytes.
    pub(super) fn answer(&self, pointer: u32, length: u32, limit: u64) -> Result<Bytes, CallError> {
        if u64::from(length) > limit {
            return Err(CallError::ResponseTooLarge { limit });
        }
        let rest = self.data().get(pointer as usize..);
        let answer = rest.and_then(|rest| rest.get(..length as usize));
        answer.map(Bytes::copy_from_slice).ok_or_else(|| {
            CallError::trap(format!("its answer of {length} bytes at {pointer} is past its memory's end"))
        })
    }

    /// The whole memory.
    pub(super) fn data(&self) -> &[u8] {
        self.memory.data(&*self.store)
    }
}

fn length(bytes: &[u8]) -> Result<u32, CallError> {
    u32::try_from(bytes.len()).map_err(|_| CallError::TooLarge { limit: u64::from(u32::MAX) })
}
