//! Compiles modules to machine code, in a child process with limits of its own.

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

/// Selects the process that compiles modules.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// This process, for short-lived tools. An agent uses a child, which bounds memory and time and keeps a
    /// compiler crash out of the agent.
    InProcess,
    /// A child process: `program args..` must call [`compile_child`].
    Child {
        /// The program, usually this very one.
        program: PathBuf,
        /// The program's arguments.
        args: Vec<OsString>,
        /// Limits of the child.
        limits: CompileLimits,
    },
}

/// Limits of a child that compiles.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// Wall-clock time for one module. The CPU time of all the child's threads together may be twice that.
    pub time: Duration,
    /// The child's address space, in bytes.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time: Duration::from_mins(2), memory: 4 << 30 }
    }
}

/// Parameters of one compilation: a line of JSON on the child's stdin, before the module.
#[derive(serde::Deserialize, serde::Serialize)]
struct Order {
    metering: Metering,
    memory: u64,
    cpu_seconds: u64,
}

/// A module could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a valid module or component.
    #[error("not a valid WebAssembly module: {0}; build it again, or look at it with `samovar inspect`")]
    Invalid(String),
    /// The compiler returned an error.
    #[error("the compiler failed: {0}")]
    Failed(String),
    /// Compilation exceeded its time limit.
    #[error(
        "the compiler took longer than its limit of {} s and was stopped; \
         make the module smaller, or give the agent more with --compile-timeout",
        .0.as_secs_f64()
    )]
    TimeLimit(Duration),
    /// The child ran out of memory, or hit a bug of the compiler.
    #[error(
        "the compiler crashed, most likely because its limit of {limit} bytes of address space is too low; \
         make the module smaller, or give the agent more with --compile-memory ({message})"
    )]
    Crashed {
        /// The limit of address space, in bytes.
        limit: u64,
        /// The child's stderr.
        message: String,
    },
    /// The child could not be started, or the pipes to it failed.
    #[error("the compiler could not be run: {0}")]
    Run(#[source] io::Error),
    /// The memory budget refused the reservation for a compilation.
    #[error(
        "this node has no memory left to compile a module; the agent retries, and succeeds once calls use less"
    )]
    NodeMemory,
}

impl From<NoMemory> for CompileError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NodeMemory
    }
}

/// Memory of a child for the smallest module. This and the next were measured over modules of 35 KB to 2.3 MB.
const CHILD_BYTES: u64 = 32 << 20;
/// Additional memory for each byte of the module.
const CHILD_BYTES_EACH: u64 = 32;

/// Largest accepted artifact, in bytes.
pub(crate) const ARTIFACT_BYTES: u64 = 1 << 30;
/// Length to which the child's stderr is truncated, in bytes.
const MESSAGE_BYTES: u64 = 4096;
/// The child's exit code for an invalid module.
const INVALID: u8 = 2;
/// The child's exit code for too little memory to start.
const NO_MEMORY: u8 = 3;
/// Rust's exit code for a panic.
const PANICKED: i32 = 101;

/// Estimates the memory of compiling a module of `wasm` bytes.
pub(crate) fn expected_memory(wasm: usize) -> u64 {
    CHILD_BYTES.saturating_add(CHILD_BYTES_EACH.saturating_mul(wasm as u64))
}

impl Compiler {
    /// Compiles `wasm` to a serialized artifact.
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
        let form = form.ok_or_else(|| CompileError::Failed("its output is truncated".to_owned()))?;
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
    // The caller's timeout kills the child sooner; this limit ends one whose parent is gone.
    let cpu_seconds = (2 * limits.time).as_secs().max(1);
    let order = Order { metering, memory: limits.memory, cpu_seconds };
    let order = serde_json::to_string(&order).map_err(|error| CompileError::Run(error.into()))? + "\n";
    let write = async move {
        // A child that refuses the module early closes the pipe; its stderr then explains the error.
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

/// Turns the child's exit status into a result.
fn ended(status: ExitStatus, limits: CompileLimits, message: String) -> Result<(), CompileError> {
    match (status.code(), status.signal().and_then(Signal::from_named_raw)) {
        (Some(0), _) => Ok(()),
        (Some(code), _) if code == i32::from(INVALID) => Err(CompileError::Invalid(message)),
        (Some(code), _) if code != PANICKED && code != i32::from(NO_MEMORY) => {
            Err(CompileError::Failed(message))
        }
        (None, Some(Signal::XCPU)) => Err(CompileError::TimeLimit(limits.time)),
        (None, Some(Signal::KILL)) => Err(CompileError::Failed(
            "it was killed, most likely by the kernel because the node ran out of memory; give the agent more memory"
                .to_owned(),
        )),
        _ => {
            let message = if message.is_empty() { status.to_string() } else { message };
            Err(CompileError::Crashed { limit: limits.memory, message })
        }
    }
}

/// Reads the child's stderr, truncated and sanitized.
async fn message(mut stderr: ChildStderr) -> String {
    let mut message = Vec::new();
    let _ = (&mut stderr).take(MESSAGE_BYTES).read_to_end(&mut message).await;
    // The rest is drained: with a full pipe the child would block forever.
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    sanitized(String::from_utf8_lossy(&message).trim())
}

/// Main function of the compiling child: limits itself, reads a module from stdin, writes its artifact to stdout.
/// Must be called before the process starts a thread. The parent interprets the exit code and stderr.
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
    // The message becomes part of a status, so it must not contain the paths of the machine that built this program.
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
    // SIGXCPU at the soft limit precedes SIGKILL at the hard one, so that the parent recognizes this end.
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

/// Detects the kind of a module by its first bytes.
fn kind(wasm: &[u8]) -> Result<Kind, CompileError> {
    Kind::of(wasm).ok_or_else(|| {
        CompileError::Invalid("it does not begin with the header of a WebAssembly binary".to_owned())
    })
}

/// Compiles `wasm` to a serialized artifact, followed by one byte for its form. Concurrency slows calls down, so a
/// component gets it only if it needs it.
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
        // A component that needs concurrency is invalid without it.
        Kind::Component => precompile(Form::Component).or_else(|_| precompile(Form::ConcurrentComponent)),
    };
    let (form, mut serialized) = compiled.map_err(|error| invalid(&format_args!("{error:#}")))?;
    serialized.push(form as u8);
    Ok(serialized)
}
