//! What the host keeps for one instance: its memory limit and its WASI, with what was granted.

use std::sync::Arc;

use wasmtime_wasi::{
    ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p1::WasiP1Ctx, p2::pipe::MemoryInputPipe,
};
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    budget::Share,
    config,
    given::Given,
    grants::{self, Outgoing},
    guest_log::GuestLog,
    guest_output::GuestOutput,
    memory::MemoryLimiter,
    stdio::Captured,
};

/// The most bytes that a guest may ask for at once as random ones: the host makes them all before it hands them over.
const RANDOM_BYTES: u64 = 1 << 20;
/// The most resources of the host that one instance may hold: streams, pollables, descriptors, fields.
const RESOURCES: usize = 4096;

/// The data of one instance's store.
pub(crate) struct Host {
    pub(crate) memory: MemoryLimiter,
    given: Arc<Given>,
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
    http: WasiHttpCtx,
    outgoing: Outgoing,
}

impl Host {
    pub(crate) fn new(given: Arc<Given>, share: Arc<Share>) -> Self {
        let memory = MemoryLimiter::new(given.memory_limit, share);
        Self { memory, given, preview1: None, wasi: None, program: None }
    }

    pub(crate) fn log(&self) -> &GuestLog {
        &self.given.log
    }

    pub(crate) fn given(&self) -> &Arc<Given> {
        &self.given
    }

    /// `wasi:config/store`, for components.
    pub(crate) fn wasi_config(&mut self) -> WasiConfig<'_> {
        WasiConfig::new(self.given.config.variables())
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
        let stderr = Captured::end(self.log().stream("stderr"));
        // Whatever a start function was given was another's: a program begins anew.
        (self.preview1, self.wasi) = (None, None);
        let program = Program { argv, stdin, stdout: stdout.clone(), stderr: stderr.clone() };
        self.program = Some(Box::new(program));
        (stdout, stderr)
    }

    /// WASI preview 1, for core modules.
    pub(crate) fn preview1(&mut self) -> &mut WasiP1Ctx {
        let Self { preview1, program, given, .. } = self;
        preview1.get_or_insert_with(|| {
            let mut builder = granted(given, program.take());
            if let Some(json) = given.config.json() {
                builder.env(config::VARIABLE, json);
            }
            Box::new(builder.build_p1())
        })
    }
}

impl Host {
    /// WASI 0.2, for components.
    fn wasi(&mut self) -> &mut Wasi {
        let Self { wasi, program, given, .. } = self;
        wasi.get_or_insert_with(|| {
            let context = granted(given, program.take()).build();
            let (mut table, http, outgoing) = (ResourceTable::new(), WasiHttpCtx::new(), Outgoing);
            table.set_max_capacity(RESOURCES);
            Box::new(Wasi { context, table, http, outgoing })
        })
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Wasi { context, table, .. } = self.wasi();
        WasiCtxView { ctx: context, table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Wasi { table, http, outgoing, .. } = self.wasi();
        WasiHttpCtxView { ctx: http, table, hooks: outgoing }
    }
}

/// WASI as real guests import it: clocks and random numbers work, output is logged; of files, network and environment
/// there is what was granted.
fn granted(given: &Given, program: Option<Box<Program>>) -> WasiCtxBuilder {
    let Given { log, grants, .. } = given;
    let mut builder = WasiCtxBuilder::new();
    builder.max_random_size(RANDOM_BYTES);
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    grants::env::build(&grants.env, &mut builder);
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
