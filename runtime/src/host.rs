//! What the host keeps for one instance: its memory limit and its WASI, with nothing granted.

use std::sync::Arc;

use wasmtime_wasi::{
    ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p1::WasiP1Ctx, p2::pipe::MemoryInputPipe,
};
use wasmtime_wasi_config::WasiConfig;

use crate::{
    budget::Share,
    config::{self, Config},
    guest_log::GuestLog,
    guest_output::GuestOutput,
    memory::MemoryLimiter,
    stdio::Captured,
};

/// The data of one instance's store.
pub(crate) struct Host {
    pub(crate) memory: MemoryLimiter,
    log: GuestLog,
    config: Arc<Config>,
    // Made at the guest's first WASI call: most calls of most guests make none.
    preview1: Option<Box<WasiP1Ctx>>,
    wasi: Option<Box<Wasi>>,
    program: Option<Box<Program>>,
}

/// What a command is given beside what every guest is.
struct Program {
    argv: Vec<String>,
    stdin: MemoryInputPipe,
    stdout: Captured,
    stderr: Captured,
}

struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
}

impl Host {
    pub(crate) fn new(memory_limit: u64, share: Arc<Share>, log: GuestLog, config: Arc<Config>) -> Self {
        let memory = MemoryLimiter::new(memory_limit, share);
        Self { memory, log, config, preview1: None, wasi: None, program: None }
    }

    pub(crate) fn log(&self) -> &GuestLog {
        &self.log
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// `wasi:config/store`, for components.
    pub(crate) fn wasi_config(&mut self) -> WasiConfig<'_> {
        WasiConfig::new(self.config.variables())
    }

    /// Gives the guest arguments and a stdin, and its caller what it writes to stdout and the end of its stderr.
    pub(crate) fn becomes_program(
        &mut self,
        argv: Vec<String>,
        stdin: MemoryInputPipe,
        stdout_bytes: u64,
        share: Share,
    ) -> (Captured, Captured) {
        let stdout = Captured::whole(stdout_bytes, share);
        let stderr = Captured::end(self.log.stream("stderr"));
        // Whatever a start function was given was another's: a program begins anew.
        (self.preview1, self.wasi) = (None, None);
        let program = Program { argv, stdin, stdout: stdout.clone(), stderr: stderr.clone() };
        self.program = Some(Box::new(program));
        (stdout, stderr)
    }

    /// WASI preview 1, for core modules.
    pub(crate) fn preview1(&mut self) -> &mut WasiP1Ctx {
        let Self { preview1, log, program, config, .. } = self;
        preview1.get_or_insert_with(|| {
            let mut builder = nothing_granted(log, program.take());
            if let Some(json) = config.json() {
                builder.env(config::VARIABLE, json);
            }
            Box::new(builder.build_p1())
        })
    }
}

/// WASI 0.2, for components.
impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Self { wasi, log, program, .. } = self;
        let wasi = wasi.get_or_insert_with(|| {
            let context = nothing_granted(log, program.take()).build();
            Box::new(Wasi { context, table: ResourceTable::new() })
        });
        WasiCtxView { ctx: &mut wasi.context, table: &mut wasi.table }
    }
}

/// WASI as real guests import it: clocks and random numbers work, output is logged; there are no files, no
/// network and no environment.
fn nothing_granted(log: &GuestLog, program: Option<Box<Program>>) -> WasiCtxBuilder {
    let mut builder = WasiCtxBuilder::new();
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    match program.map(|program| *program) {
        Some(Program { argv, stdin, stdout, stderr }) => {
            builder.args(&argv).stdin(stdin).stdout(GuestOutput(stdout)).stderr(GuestOutput(stderr));
        }
        None => {
            builder.stdout(GuestOutput(log.stream("stdout"))).stderr(GuestOutput(log.stream("stderr")));
        }
    }
    builder
}
