//! Compiling: a module's bytes to machine code, in a child process with limits of its own.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::ChildStderr,
};

use crate::{Kind, NoMemory, engine, told::told};

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
    },
}

/// Why a module has no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a valid module or component.
    #[error("not a valid WebAssembly module: {0}; build it again, or look at it with `samovar inspect`")]
    Invalid(String),
    /// The compiler gave up or went over its limits.
    #[error("the compiler failed: {0}")]
    Failed(String),
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

/// The longest that one module may compile.
const TIME: Duration = Duration::from_mins(2);
/// The CPU time of the child over all its threads, in seconds.
const CPU_SECONDS: u64 = 240;
/// The child's address space in bytes.
const ADDRESS_SPACE: u64 = 4 << 30;
/// The largest artifact that is taken, in bytes.
pub(crate) const ARTIFACT_BYTES: u64 = 1 << 30;
/// The most that is read of what the child says, in bytes.
const MESSAGE_BYTES: u64 = 4096;
/// The child's exit code for bytes that are no valid module.
const INVALID: u8 = 2;
/// Its exit code where the compiler gave up.
const FAILED: u8 = 3;

/// The memory that compiling a module of so many bytes is expected to take.
pub(crate) fn expected_memory(wasm: usize) -> u64 {
    CHILD_BYTES.saturating_add(CHILD_BYTES_EACH.saturating_mul(wasm as u64))
}

impl Compiler {
    /// The serialized artifact of `wasm`.
    pub(crate) async fn compile(&self, wasm: Bytes) -> Result<Vec<u8>, CompileError> {
        match self {
            Self::InProcess => tokio::task::spawn_blocking(move || compile(&wasm))
                .await
                .map_err(|error| CompileError::Failed(error.to_string()))?,
            Self::Child { program, args } => {
                let work = in_child(program.clone(), args, wasm);
                tokio::time::timeout(TIME, work)
                    .await
                    .map_err(|_| CompileError::Failed(format!("it took longer than {} s", TIME.as_secs())))?
            }
        }
    }
}

async fn in_child(program: PathBuf, args: &[OsString], wasm: Bytes) -> Result<Vec<u8>, CompileError> {
    let mut child = tokio::process::Command::new(program)
        .args(args)
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
    let write = async move {
        // A child that refuses the module early closes its end; what it then says is the error.
        let _ = stdin.write_all(&wasm).await;
    };
    let mut artifact = Vec::new();
    let mut stdout = stdout.take(ARTIFACT_BYTES);
    let (read, message, (), status) =
        tokio::join!(stdout.read_to_end(&mut artifact), message(stderr), write, child.wait());
    read.map_err(CompileError::Run)?;
    let status = status.map_err(CompileError::Run)?;
    match status.code().map(u8::try_from) {
        Some(Ok(0)) => Ok(artifact),
        Some(Ok(INVALID)) => Err(CompileError::Invalid(message)),
        Some(Ok(FAILED)) => Err(CompileError::Failed(message)),
        // What it says then is not for whoever wrote the module: a panic tells where the compiler's source was.
        Some(_) => Err(CompileError::Failed(format!("it ended with {status}"))),
        None => Err(CompileError::Failed(format!(
            "it went over its limits ({} GiB of address space, {CPU_SECONDS} s of CPU time) and was stopped ({status})",
            ADDRESS_SPACE >> 30
        ))),
    }
}

/// What the child says, as much of it as helps.
async fn message(mut stderr: ChildStderr) -> String {
    let mut message = Vec::new();
    let _ = (&mut stderr).take(MESSAGE_BYTES).read_to_end(&mut message).await;
    // The rest is read too: with its pipe full, the child would wait for ever.
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    told(String::from_utf8_lossy(&message).trim())
}

/// The whole life of the compiling child: limits itself, reads a module from stdin, writes its artifact to
/// stdout. Its exit code and stderr are for the process that started it.
pub fn compile_child() -> ExitCode {
    match limited_compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(CompileError::Invalid(message)) => {
            eprintln!("{message}");
            ExitCode::from(INVALID)
        }
        Err(CompileError::Failed(message)) => {
            eprintln!("{message}");
            ExitCode::from(FAILED)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(FAILED)
        }
    }
}

fn limited_compile() -> Result<(), CompileError> {
    for (resource, limit) in
        [(Resource::As, ADDRESS_SPACE), (Resource::Cpu, CPU_SECONDS), (Resource::Core, 0)]
    {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .map_err(|error| CompileError::Run(error.into()))?;
    }
    let mut wasm = Vec::new();
    io::stdin().lock().read_to_end(&mut wasm).map_err(CompileError::Run)?;
    let artifact = compile(&wasm)?;
    io::stdout().lock().write_all(&artifact).map_err(CompileError::Run)
}

fn compile(wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    let kind = Kind::of(wasm)
        .ok_or_else(|| CompileError::Invalid("it does not begin as a WebAssembly binary does".to_owned()))?;
    let engine = wasmtime::Engine::new(&engine::config())
        .map_err(|error| CompileError::Failed(told(format_args!("{error:#}"))))?;
    match kind {
        Kind::Core => engine.precompile_module(wasm),
        Kind::Component => engine.precompile_component(wasm),
    }
    .map_err(|error| match wasmparser::validate(wasm) {
        Err(invalid) => CompileError::Invalid(told(invalid)),
        Ok(_) => CompileError::Failed(told(format_args!("{error:#}"))),
    })
}
