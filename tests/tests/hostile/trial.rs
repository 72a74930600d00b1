//! The trial of a module: compiled in a child, loaded, and each function called.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use samovar_runtime::{
    ArtifactCache, Call, CallError, CompileError, CompileLimits, Compiler, Engine, EngineOptions, Format,
    Instances, Limits, LoadError, ModuleDigest, Plugin, PluginSpec,
};
use samovar_testbed::scratch;
use tokio::time::{Instant, timeout};

/// The timeout of one call.
const CALL: Duration = Duration::from_millis(100);
/// The functions of one module that are called.
const CALLS: usize = 4;
/// The most bytes of a refusal: it goes into a condition, a log line, a response.
const LONGEST: usize = 4 << 10;
/// The time of compiling, starting and calling beyond which a module hangs: their own limits are shorter.
const HANG: Duration = Duration::from_secs(150);
/// The limits of one compile.
const COMPILE: CompileLimits = CompileLimits { time: Duration::from_mins(2), memory: 4 << 30 };
/// The memory budget of all guests together.
const MEMORY: u64 = 512 << 20;

/// The last step of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Invalid,
    CompileFailed,
    ExportNotFound,
    ImportNotGranted,
    InitFailed,
    Loaded,
}

/// An engine, and an artifact cache that compiles in children.
pub struct Trial {
    engine: Engine,
    cache: ArtifactCache,
}

impl Trial {
    pub fn new(name: &str) -> Self {
        let engine =
            Engine::new(&EngineOptions { instances: 100, memory: Some(MEMORY), ..EngineOptions::default() })
                .unwrap();
        let program = PathBuf::from(std::env::var_os("SAMOVAR_BIN_DIR").unwrap()).join("samovar");
        let compiler = Compiler::Child { program, args: vec!["compile".into()], limits: COMPILE };
        let directory = scratch().join(format!("hostile-{name}"));
        let cache = ArtifactCache::open(directory, engine.clone(), compiler).unwrap();
        Self { engine, cache }
    }

    /// Runs the trial of one module; the error names the broken promise.
    pub async fn of(&self, module: Vec<u8>) -> Result<Outcome, String> {
        let started = Instant::now();
        timeout(HANG, self.whole(module))
            .await
            .map_err(|_| format!("it hangs: nothing after {:?}", started.elapsed()))?
    }

    /// The bytes that stay reserved of the memory budget when no guest runs.
    pub fn memory(&self) -> u64 {
        self.engine.memory().trim_freed();
        self.engine.memory().used()
    }

    async fn whole(&self, module: Vec<u8>) -> Result<Outcome, String> {
        let digest = ModuleDigest::of(&module);
        let compiled = match self.cache.compile_only(&digest, module.into()).await {
            Ok(compiled) => compiled,
            Err(error) => return not_compiled(&error),
        };
        let artifact = match self.cache.keep(compiled).await {
            Ok(artifact) => artifact,
            // It needs more of something than an instance may have, which deserializing its code shows.
            Err(error) => return not_compiled(&error),
        };
        let spec = PluginSpec {
            name: "hostile/module".to_owned(),
            limits: Limits { timeout: CALL, ..Limits::default() },
            instances: Instances { warm: 0, reuse: None },
            ..PluginSpec::default()
        };
        let plugin = match Plugin::load(&self.engine, &artifact, spec).await {
            Ok(plugin) => plugin,
            Err(error) => {
                let outcome = match &error {
                    LoadError::ExportNotFound(_) => Outcome::ExportNotFound,
                    LoadError::ImportNotGranted(_) => Outcome::ImportNotGranted,
                    // More instances, memories or tables than the whole pool has.
                    LoadError::Init(_) | LoadError::AgentFull => Outcome::InitFailed,
                    LoadError::NodeMemory | LoadError::Engine(_) => {
                        return Err(format!("the failure is not the module's: {error}"));
                    }
                };
                return reason(&error.to_string()).map(|()| outcome);
            }
        };
        self.calls(&plugin).await?;
        Ok(Outcome::Loaded)
    }

    async fn calls(&self, plugin: &Plugin) -> Result<(), String> {
        for function in plugin.functions() {
            printable(function.name())?;
            printable(function.signature())?;
            function.not_callable().map_or(Ok(()), reason)?;
        }
        for function in plugin.functions().iter().filter(|it| it.not_callable().is_none()).take(CALLS) {
            for body in ["", "[0]", "[0, 0]", "[\"\"]"] {
                let call = Call {
                    body: Bytes::from_static(body.as_bytes()),
                    format: Format::Json,
                    answer_bytes: false,
                };
                let started = Instant::now();
                match plugin.call(function, call).await {
                    Ok(_) => {}
                    Err(CallError::NodeMemory | CallError::AgentFull | CallError::Overloaded) => {
                        return Err("others left no room for a call".to_owned());
                    }
                    Err(CallError::BadArguments(why)) => {
                        reason(&why)?;
                        continue;
                    }
                    Err(error) => reason(&error.to_string())?,
                }
                let took = started.elapsed();
                if took > CALL + HANG / 10 {
                    return Err(format!("a call of {CALL:?} took {took:?}"));
                }
                break;
            }
        }
        Ok(())
    }
}

fn not_compiled(error: &CompileError) -> Result<Outcome, String> {
    let outcome = match error {
        CompileError::Invalid(_) => Outcome::Invalid,
        CompileError::Failed(_) | CompileError::TimeLimit(_) | CompileError::Crashed { .. } => {
            Outcome::CompileFailed
        }
        CompileError::Run(_) | CompileError::NodeMemory => {
            return Err(format!("the failure is not the module's: {error}"));
        }
    };
    reason(&error.to_string()).map(|()| outcome)
}

/// Checks that a refusal is not empty, printable, short, and without paths of this machine.
fn reason(text: &str) -> Result<(), String> {
    printable(text)?;
    let ours = [env!("CARGO_MANIFEST_DIR"), "/.cargo/", "/rustc/", "panicked", "/tmp/"];
    if text.trim().is_empty() {
        Err("it is refused without a reason".to_owned())
    } else if let Some(path) = ours.iter().find(|path| text.contains(**path)) {
        Err(format!("its refusal contains {path}: {text}"))
    } else {
        Ok(())
    }
}

/// Checks that text of a module fits into a condition, and cannot forge a log line or control a terminal.
fn printable(text: &str) -> Result<(), String> {
    let begin: String = text.chars().take(100).collect();
    if text.len() > LONGEST {
        return Err(format!("its text has {} bytes: {begin:?}...", text.len()));
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!("its text has control characters: {begin:?}"));
    }
    Ok(())
}
