//! The three functions of DataFlare's plugins: `plugin_init` takes the config, `process_data` each call's body, and
//! `plugin_cleanup` ends the instance. They are a form of the Buffer ABI: bytes in, bytes out.
//!
//! `plugin_init` returns 0 on success. `process_data` returns a pointer to its answer: the length in four bytes, little
//! endian, and then as many bytes; 0 is an empty answer. It may return `ptr << 32 | len` as `i64` instead.

use std::sync::Arc;

use wasmtime::{Module, ModuleExport, Val};

use super::{
    Output, buffer,
    linear::{self, Allocation, CoreInstance},
};
use crate::{CallError, Format, instance::Instance};

/// The three functions of a module, with the exports that they need.
pub(crate) struct DataFlare {
    memory: ModuleExport,
    allocation: Allocation,
    init: ModuleExport,
    process: ModuleExport,
    /// True if `process_data` returns pointer and length in one `i64`.
    is_packed: bool,
    cleanup: Option<ModuleExport>,
}

const INIT: &str = "plugin_init";
const PROCESS: &str = "process_data";
const CLEANUP: &str = "plugin_cleanup";

impl DataFlare {
    /// `None` if the module is no DataFlare plugin.
    pub(crate) fn of(module: &Module) -> Option<Self> {
        let process = module.get_export(PROCESS)?.func()?.clone();
        let mut params = process.params();
        let takes_bytes = params.len() == 2 && params.all(|ty| ty.is_i32());
        let mut results = process.results();
        let (result, None) = (results.next()?, results.next()) else { return None };
        let fits =
            takes_bytes && (result.is_i32() || result.is_i64()) && linear::has_func(module, INIT, 2, 1);
        let cleanup = linear::has_func(module, CLEANUP, 0, 1) || linear::has_func(module, CLEANUP, 0, 0);
        fits.then_some(Self {
            memory: linear::memory(module)?,
            allocation: Allocation::exported(module).unwrap_or(Allocation::AtTheEnd),
            init: module.get_export_index(INIT)?,
            process: module.get_export_index(PROCESS)?,
            is_packed: result.is_i64(),
            cleanup: module.get_export_index(CLEANUP).filter(|_| cleanup),
        })
    }

    /// True for the functions of a DataFlare plugin that only the host calls.
    pub(crate) fn is_host_only(name: &str) -> bool {
        [INIT, CLEANUP].contains(&name)
    }

    pub(crate) fn is_entry(name: &str) -> bool {
        name == PROCESS
    }

    /// Passes the config to `plugin_init`.
    pub(super) async fn init(&self, instance: &mut Instance) -> Result<(), CallError> {
        let context = Arc::clone(instance.host().context());
        let config = context.config.json().unwrap_or("{}");
        let mut core = CoreInstance::new(instance, &self.memory)?;
        let arguments = core.allocate(&self.allocation, config.as_bytes()).await?;
        match core.call::<_, i32>(&self.init, arguments).await? {
            0 => Ok(()),
            status => Err(CallError::trap(format!("`{INIT}` returned {status}; look at `spec.config`"))),
        }
    }

    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        body: &[u8],
        limit: u64,
    ) -> Result<Output, CallError> {
        let mut core = CoreInstance::new(instance, &self.memory)?;
        let arguments = core.allocate(&self.allocation, body).await?;
        let (pointer, length) = if self.is_packed {
            buffer::unpacked(core.call(&self.process, arguments).await?)
        } else {
            let answer = core.call(&self.process, arguments).await?;
            let pointer = u32::try_from(answer).map_err(|_| failed(answer))?;
            if pointer == 0 { (0, 0) } else { prefixed(core.data(), pointer)? }
        };
        Ok(Output { body: core.answer(pointer, length, limit)?, format: Format::Bytes })
    }

    /// Calls `plugin_cleanup`. Its error comes too late to matter.
    pub(crate) async fn end(&self, instance: &mut Instance) {
        if let Some(cleanup) = &self.cleanup
            && let Ok((cleanup, store)) = instance.core_func(cleanup)
        {
            let mut results = [const { Val::I32(0) }; 1];
            let results = &mut results[..cleanup.ty(&*store).results().len()];
            let _ = cleanup.call_async(store, &[], results).await;
        }
    }
}

/// Pointer and length of an answer that is prefixed with its length.
fn prefixed(memory: &[u8], pointer: u32) -> Result<(u32, u32), CallError> {
    let length = memory.get(pointer as usize..).and_then(|rest| rest.first_chunk());
    let past = || CallError::trap(format!("its answer at {pointer} is past its memory's end"));
    let length = length.ok_or_else(past)?;
    Ok((pointer.saturating_add(4), u32::from_le_bytes(*length)))
}

/// The error for a negative number in place of a pointer.
fn failed(answer: i32) -> CallError {
    CallError::GuestError(serde_json::Value::String(format!("`{PROCESS}` returned {answer}")).to_string())
}
