//! The host side of one instance: its memory limit, and its WASI contexts with what was granted.

pub(crate) mod context;
pub(crate) mod dataflare;

use std::sync::Arc;

use wasmtime_wasi::{
    ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p2::pipe::MemoryInputPipe,
};
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use self::context::PluginContext;
use crate::{
    config,
    grants::{
        FilesGrant,
        files::{FileSystem, FilesView, Preview1},
        network::{self, NetworkView, Outgoing, Sockets},
    },
    memory::{budget::Reservation, limiter::MemoryLimiter},
    output::{capture::Captured, log::GuestLog, stream::GuestOutput},
};

/// The most random bytes of one host call: the host generates all of them before it returns any.
const RANDOM_BYTES: u64 = 1 << 20;
/// The most host resources of one instance: streams, pollables, descriptors, fields.
const RESOURCES: usize = 4096;

/// The data of one instance's store.
pub(crate) struct Host {
    pub(crate) memory: MemoryLimiter,
    context: Arc<PluginContext>,
    // Created at the guest's first host call that needs it: most calls of most guests make none.
    preview1: Option<Box<Preview1>>,
    wasi: Option<Box<Wasi>>,
    files: Option<FileSystem>,
    reservation: Arc<Reservation>,
    program: Option<Box<Program>>,
}

/// The arguments and streams of a command.
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
    sockets: Sockets,
}

/// The most host memory, in bytes, of one header section that a guest builds. On the wire it is smaller.
const FIELD_BYTES: usize = 32 << 10;

impl Host {
    pub(crate) fn new(context: Arc<PluginContext>, reservation: Arc<Reservation>) -> Self {
        let memory = MemoryLimiter::new(context.memory_limit, Arc::clone(&reservation));
        Self { memory, context, preview1: None, wasi: None, files: None, reservation, program: None }
    }

    pub(crate) fn log(&self) -> &GuestLog {
        &self.context.log
    }

    pub(crate) fn context(&self) -> &Arc<PluginContext> {
        &self.context
    }

    /// `wasi:config/store`, for components.
    pub(crate) fn wasi_config(&mut self) -> WasiConfig<'_> {
        WasiConfig::new(self.context.config.variables())
    }

    /// Makes the guest a program with these arguments and this stdin. Returns its stdout, and the end of its stderr.
    pub(crate) fn set_program(
        &mut self,
        argv: Vec<String>,
        stdin: MemoryInputPipe,
        stdout_bytes: u64,
        reservation: Reservation,
    ) -> (Captured, Captured) {
        let stdout = Captured::whole(stdout_bytes, reservation);
        let stderr = Captured::end(self.log().stream("stderr"));
        // A start function may have created these contexts without the program's streams.
        (self.preview1, self.wasi) = (None, None);
        let program = Program { argv, stdin, stdout: stdout.clone(), stderr: stderr.clone() };
        self.program = Some(Box::new(program));
        (stdout, stderr)
    }

    /// WASI preview 1, for core modules.
    pub(crate) fn preview1(&mut self) -> &mut Preview1 {
        let Self { preview1, program, context, files, reservation, .. } = self;
        preview1.get_or_insert_with(|| {
            let mut builder = wasi_builder(context, program.take());
            if let Some(json) = context.config.json() {
                builder.env(config::VARIABLE, json);
            }
            let granted = &context.grants.files;
            let files = file_system(files, granted, reservation).map(|files| (files, granted));
            Box::new(Preview1::new(builder.build_p1(), files))
        })
    }
}

impl Wasi {
    fn new(context: &PluginContext, program: Option<Box<Program>>) -> Box<Self> {
        let (outgoing, sockets) = network::for_instance(&context.outbound);
        let mut builder = wasi_builder(context, program);
        sockets.build(&mut builder);
        let (mut table, mut http) = (ResourceTable::new(), WasiHttpCtx::new());
        table.set_max_capacity(RESOURCES);
        http.set_field_size_limit(FIELD_BYTES);
        Box::new(Self { context: builder.build(), table, http, outgoing, sockets })
    }
}

impl Host {
    /// WASI 0.2, for components.
    fn wasi(&mut self) -> &mut Wasi {
        let Self { wasi, program, context, .. } = self;
        wasi.get_or_insert_with(|| Wasi::new(context, program.take()))
    }

    /// `wasi:filesystem`, for components.
    pub(crate) fn files(&mut self) -> FilesView<'_> {
        let Self { wasi, program, files, context, reservation, .. } = self;
        let grant = &context.grants.files;
        let Wasi { table, .. } = &mut **wasi.get_or_insert_with(|| Wasi::new(context, program.take()));
        FilesView { table, files: file_system(files, grant, reservation), grant }
    }

    /// Empties the scratch folders, as before each call.
    pub(crate) fn empty_scratch(&mut self) {
        if let Some(files) = &self.files {
            files.empty_scratch();
        }
    }

    /// `wasi:sockets`, for components.
    pub(crate) fn network(&mut self) -> NetworkView<'_> {
        let Wasi { context, table, sockets, .. } = self.wasi();
        NetworkView { wasi: WasiCtxView { ctx: context, table }, sockets }
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

/// A WASI context in which clocks and random numbers work, output is logged, and the environment has the granted
/// variables. It has neither files nor network: their grants add them.
fn wasi_builder(context: &PluginContext, program: Option<Box<Program>>) -> WasiCtxBuilder {
    let PluginContext { log, grants, .. } = context;
    let mut builder = WasiCtxBuilder::new();
    builder.max_random_size(RANDOM_BYTES);
    grants.env.build(&mut builder);
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

/// The instance's file system, created at its first use; `None` if no files are granted.
fn file_system<'f>(
    files: &'f mut Option<FileSystem>,
    grant: &FilesGrant,
    reservation: &Arc<Reservation>,
) -> Option<&'f FileSystem> {
    if grant.is_empty() {
        return None;
    }
    Some(files.get_or_insert_with(|| FileSystem::new(grant, reservation)))
}
