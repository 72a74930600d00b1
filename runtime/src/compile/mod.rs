//! Compiling: a module's bytes to machine code, in a child process with limits of its own.

pub(crate) mod bulk;
pub(crate) mod cache;
mod form;
pub(crate) mod seccomp;

use std::{
    ffi::OsString,
    fmt,
    io::{self, BufRead as _, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::ChildStderr,
};

use crate::{
    Kind, Metering, NoMemory,
    compile::form::Form,
    engine::{self, build::Build},
    printable::sanitized,
};

/// Where modules are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process. For tools that end soon; an agent wants a child, whose memory and time are bounded
    /// and whose crash is not the agent's.
    InProcess,
    /// In a child process: `program args..` must call [`compile_child`].
    Child {
        /// The program, usually this very one.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
        /// How much it may take.
        limits: CompileLimits,
    },
}

/// How much a child that compiles may take.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// The longest that one module may compile. The CPU time over all the child's threads may be twice that.
    pub time: Duration,
    /// The child's address space, in bytes.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time: Duration::from_mins(2), memory: 4 << 30 }
    }
}

/// What a child is told before the module, as a line of JSON.
#[derive(serde::Deserialize, serde::Serialize)]
struct Order {
    metering: Metering,
    memory: u64,
    cpu_seconds: u64,
}

/// Why a module has no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a valid module or component.
    #[error("not a valid WebAssembly module: {0}; build it again, or look at it with `samovar inspect`")]
    Invalid(String),
    /// The compiler gave up.
    #[error("the compiler failed: {0}")]
    Failed(String),
    /// It took too long.
    #[error(
        "the compiler took longer than its limit of {} s and was stopped; \
         make the module smaller, or give the agent more with --compile-timeout",
        .0.as_secs_f64()
    )]
    TimeLimit(Duration),
    /// It had too little memory, or met a fault of its own.
    #[error(
        "the compiler crashed, as it does where its limit of {limit} bytes of address space is too little; \
         make the module smaller, or give the agent more with --compile-memory ({message})"
    )]
    Crashed {
        /// The limit.
        limit: u64,
        /// What it said.
        message: String,
    },
    /// The compiler could not be run.
    #[error("the compiler could not be run: {0}")]
    Run(#[source] io::Error),
    /// The memory budget has too little left for a compile.
    #[error(
        "this node has no memory left to compile a module; it is tried again, and compiles when calls use less"
    )]
    NodeMemory,
}

impl From<NoMemory> for CompileError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NodeMemory
    }
}

/// What a child takes for the smallest module. Measured, as is the next, over modules of 35 KB to 2.3 MB.
const CHILD_BYTES: u64 = 32 << 20;
/// What it takes more for each byte of the module.
const CHILD_BYTES_EACH: u64 = 32;

/// The largest artifact that is taken, in bytes.
pub(crate) const ARTIFACT_BYTES: u64 = 1 << 30;
/// The most that is read of what the child says, in bytes.
const MESSAGE_BYTES: u64 = 4096;
/// The child's exit code for bytes that are no valid module.
const INVALID: u8 = 2;
/// For less memory than it takes to begin.
const NO_MEMORY: u8 = 3;
/// Rust's own, for a panic.
const PANICKED: i32 = 101;

/// The memory that compiling a module of so many bytes is expected to take.
pub(crate) fn expected_memory(wasm: usize) -> u64 {
    CHILD_BYTES.saturating_add(CHILD_BYTES_EACH.saturating_mul(wasm as u64))
}

impl Compiler {
    /// The serialized artifact of `wasm`, and its form.
    async fn compile(&self, metering: Metering, wasm: Bytes) -> Result<(Form, Vec<u8>), CompileError> {
        let mut serialized = match self {
            Self::InProcess => tokio::task::spawn_blocking(move || compile(metering, &wasm))
                .await
                .map_err(|error| CompileError::Failed(error.to_string()))?,
            Self::Child { program, args, limits } => {
                let mut child = tokio::process::Command::new(program);
                child.args(args);
                tokio::time::timeout(limits.time, in_child(child, *limits, metering, wasm))
                    .await
                    .map_err(|_| CompileError::TimeLimit(limits.time))?
            }
        }?;
        let form = serialized.pop().and_then(Form::from_byte);
        let form = form.ok_or_else(|| CompileError::Failed("its artifact is incomplete".to_owned()))?;
        Ok((form, serialized))
    }
}

async fn in_child(
    mut child: tokio::process::Command,
    limits: CompileLimits,
    metering: Metering,
    wasm: Bytes,
) -> Result<Vec<u8>, CompileError> {
    let mut child = child
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(CompileError::Run)?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(CompileError::Run(io::Error::other("the child has no pipes")));
    };
    // Whoever waits for the compile ends it sooner; this ends a child that nobody waits for any more.
    let cpu_seconds = (2 * limits.time).as_secs().max(1);
    let order = Order { metering, memory: limits.memory, cpu_seconds };
    let order = serde_json::to_string(&order).map_err(|error| CompileError::Run(error.into()))? + "\n";
    let write = async move {
        // A child that refuses the module early closes its end; what it then says is the error.
        let _ = stdin.write_all(order.as_bytes()).await;
        let _ = stdin.write_all(&wasm).await;
    };
    let mut artifact = Vec::new();
    let mut stdout = stdout.take(ARTIFACT_BYTES);
    let (read, message, (), status) =
        tokio::join!(stdout.read_to_end(&mut artifact), message(stderr), write, child.wait());
    read.map_err(CompileError::Run)?;
    ended(status.map_err(CompileError::Run)?, limits, message).map(|()| artifact)
}

/// What the end of a child means.
fn ended(status: ExitStatus, limits: CompileLimits, message: String) -> Result<(), CompileError> {
    match (status.code(), status.signal().and_then(Signal::from_named_raw)) {
        (Some(0), _) => Ok(()),
        (Some(code), _) if code == i32::from(INVALID) => Err(CompileError::Invalid(message)),
        (Some(code), _) if code != PANICKED && code != i32::from(NO_MEMORY) => {
            Err(CompileError::Failed(message))
        }
        (None, Some(Signal::XCPU)) => Err(CompileError::TimeLimit(limits.time)),
        (None, Some(Signal::KILL)) => Err(CompileError::Failed(
            "it was killed, as the kernel does where this node's memory runs out; give the agent more memory"
                .to_owned(),
        )),
        _ => {
            let message = if message.is_empty() { status.to_string() } else { message };
            Err(CompileError::Crashed { limit: limits.memory, message })
        }
    }
}

/// What the child says, as much of it as helps.
async fn message(mut stderr: ChildStderr) -> String {
    let mut message = Vec::new();
    let _ = (&mut stderr).take(MESSAGE_BYTES).read_to_end(&mut message).await;
    // The rest is read too: with its pipe full, the child would wait for ever.
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    sanitized(String::from_utf8_lossy(&message).trim())
}

/// The whole life of the compiling child: limits itself, reads a module from stdin, writes its artifact to
/// stdout. To be called before the process starts a thread. Its exit code and stderr are for the process that started it.
pub fn compile_child() -> ExitCode {
    match limited_compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(CompileError::Invalid(message)) => {
            eprintln!("{message}");
            ExitCode::from(INVALID)
        }
        Err(CompileError::Failed(message)) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            let no_memory =
                matches!(&error, CompileError::Run(error) if error.kind() == io::ErrorKind::OutOfMemory);
            if no_memory { ExitCode::from(NO_MEMORY) } else { ExitCode::FAILURE }
        }
    }
}

fn limited_compile() -> Result<(), CompileError> {
    // What it says becomes part of a status: what happened, and nothing of where this was built.
    std::panic::set_hook(Box::new(|panic| eprintln!("{}", panic.payload_as_str().unwrap_or("it panicked"))));
    let mut stdin = io::stdin().lock();
    let mut order = String::new();
    stdin.read_line(&mut order).map_err(CompileError::Run)?;
    let Order { metering, memory, cpu_seconds } =
        serde_json::from_str(&order).map_err(|error| CompileError::Run(error.into()))?;
    let set = |resource, soft, hard| {
        setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })
            .map_err(|error| CompileError::Run(error.into()))
    };
    set(Resource::As, memory, memory)?;
    // Its own signal comes before the last one, so that this end can be told from others.
    set(Resource::Cpu, cpu_seconds, cpu_seconds + 1)?;
    for resource in [Resource::Core, Resource::Fsize, Resource::Nofile] {
        set(resource, 0, 0)?;
    }
    seccomp::lock_down().map_err(CompileError::Run)?;
    let mut wasm = Vec::new();
    stdin.read_to_end(&mut wasm).map_err(CompileError::Run)?;
    let artifact = compile(metering, &wasm)?;
    io::stdout().lock().write_all(&artifact).map_err(CompileError::Run)
}

/// What a module is, as its first bytes say.
fn kind(wasm: &[u8]) -> Result<Kind, CompileError> {
    Kind::of(wasm)
        .ok_or_else(|| CompileError::Invalid("it does not begin as a WebAssembly binary does".to_owned()))
}

/// The serialized artifact of `wasm`, and one byte more: its form. What need not be concurrent is not.
fn compile(metering: Metering, wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    let kind = kind(wasm)?;
    let invalid = |otherwise: &dyn fmt::Display| match wasmparser::validate(wasm) {
        Err(invalid) => CompileError::Invalid(sanitized(invalid)),
        Ok(_) => CompileError::Failed(sanitized(otherwise)),
    };
    let pieces = bulk::in_pieces(kind, wasm).map_err(|error| invalid(&error))?;
    let precompile = |form: Form| {
        let build = Build { metering, is_concurrent: form.is_concurrent() };
        let engine = wasmtime::Engine::new(&engine::config(build))?;
        let serialized = match kind {
            Kind::Core => engine.precompile_module(&pieces),
            Kind::Component => engine.precompile_component(&pieces),
        };
        serialized.map(|serialized| (form, serialized))
    };
    let compiled = match kind {
        Kind::Core => precompile(Form::Core),
        // What needs to be concurrent is not valid without.
        Kind::Component => precompile(Form::Component).or_else(|_| precompile(Form::ConcurrentComponent)),
    };
    let (form, mut serialized) = compiled.map_err(|error| invalid(&format_args!("{error:#}")))?;
    serialized.push(form as u8);
    Ok(serialized)
}
