//! What the host keeps for one instance: its memory limit and its WASI, with what was granted.

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
        network::{self, Outgoing, Sockets},
    },
    memory::{budget::Reservation, limiter::MemoryLimiter},
    output::{capture::Captured, log::GuestLog, stream::GuestOutput},
};

/// The most bytes that a guest may ask for at once as random ones: the host makes them all before it hands them over.
const RANDOM_BYTES: u64 = 1 << 20;
/// The most resources of the host that one instance may hold: streams, pollables, descriptors, fields.
const RESOURCES: usize = 4096;

/// The data of one instance's store.
pub(crate) struct Host {
    pub(crate) memory: MemoryLimiter,
    context: Arc<PluginContext>,
    // Made at the guest's first WASI call: most calls of most guests make none.
    preview1: Option<Box<Preview1>>,
    wasi: Option<Box<Wasi>>,
    files: Option<FileSystem>,
    reservation: Arc<Reservation>,
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
    sockets: Sockets,
}

/// The most that one header section of a guest's may take in the host. On the wire it is smaller.
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

    /// Gives the guest arguments and a stdin, and its caller what it writes to stdout and the end of its stderr.
    pub(crate) fn set_program(
        &mut self,
        argv: Vec<String>,
        stdin: MemoryInputPipe,
        stdout_bytes: u64,
        reservation: Reservation,
    ) -> (Captured, Captured) {
        let stdout = Captured::whole(stdout_bytes, reservation);
        let stderr = Captured::end(self.log().stream("stderr"));
        // Whatever a start function was given was another's: a program begins anew.
        (self.preview1, self.wasi) = (None, None);
        let program = Program { argv, stdin, stdout: stdout.clone(), stderr: stderr.clone() };
        self.program = Some(Box::new(program));
        (stdout, stderr)
    }

    /// WASI preview 1, for core modules.
    pub(crate) fn preview1(&mut self) -> &mut Preview1 {
        let Self { preview1, program, context, files, reservation, .. } = self;
        preview1.get_or_insert_with(|| {
            let mut builder = granted(context, program.take());
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
        let (outgoing, sockets) = network::of_instance(&context.outbound);
        let mut builder = granted(context, program);
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
}

impl Host {
    /// `wasi:filesystem`, for components.
    pub(crate) fn files(&mut self) -> FilesView<'_> {
        let Self { wasi, program, files, context, reservation, .. } = self;
        let grant = &context.grants.files;
        let Wasi { table, .. } = &mut **wasi.get_or_insert_with(|| Wasi::new(context, program.take()));
        FilesView { table, files: file_system(files, grant, reservation), grant }
    }

    /// Empties the scratch folders: each call starts with nothing in them.
    pub(crate) fn empty_scratch(&mut self) {
        if let Some(files) = &self.files {
            files.empty_scratch();
        }
    }

    /// The sockets of a component.
    pub(crate) fn granted_sockets(&mut self) -> &Sockets {
        &self.wasi().sockets
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
fn granted(context: &PluginContext, program: Option<Box<Program>>) -> WasiCtxBuilder {
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

/// The instance's file system, made when it is first looked at; `None` where no files are granted.
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
