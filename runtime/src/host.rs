//! What the host keeps for one instance: its memory limit and its WASI, with nothing granted.

use std::sync::Arc;

use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p1::WasiP1Ctx};

use crate::{budget::Share, guest_log::GuestLog, memory::MemoryLimiter};

/// The data of one instance's store.
pub(crate) struct Host {
    pub(crate) memory: MemoryLimiter,
    log: GuestLog,
    // Made at the guest's first WASI call: most calls of most guests make none.
    preview1: Option<Box<WasiP1Ctx>>,
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
}

impl Host {
    pub(crate) fn new(memory_limit: u64, share: Arc<Share>, log: GuestLog) -> Self {
        Self { memory: MemoryLimiter::new(memory_limit, share), log, preview1: None, wasi: None }
    }

    /// WASI preview 1, for core modules.
    pub(crate) fn preview1(&mut self) -> &mut WasiP1Ctx {
        self.preview1.get_or_insert_with(|| Box::new(nothing_granted(&self.log).build_p1()))
    }
}

/// WASI 0.2, for components.
impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| {
            Box::new(Wasi { context: nothing_granted(&self.log).build(), table: ResourceTable::new() })
        });
        WasiCtxView { ctx: &mut wasi.context, table: &mut wasi.table }
    }
}

/// WASI as real guests import it: clocks and random numbers work, output is logged; there are no files, no
/// network and no environment.
fn nothing_granted(log: &GuestLog) -> WasiCtxBuilder {
    let mut builder = WasiCtxBuilder::new();
    builder
        .stdout(log.stream("stdout"))
        .stderr(log.stream("stderr"))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    builder
}
