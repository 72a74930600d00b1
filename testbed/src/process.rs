//! Child processes: started, signalled, awaited; a failing test shows their logs.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{File, OpenOptions},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, interval};

use crate::{
    Cluster,
    scratch::{self, Kept},
};

/// The interval at which a state without a notification is polled.
pub(crate) const LOOK: Duration = Duration::from_millis(5);
/// The lines of a log that a failing test shows.
const SHOWN_LINES: usize = 200;

/// A running program. Killed when dropped, which prints its log to the test's output.
pub struct Process {
    name: String,
    kept: Option<Kept>,
    command: Command,
    log: PathBuf,
    paused: bool,
    quiet: bool,
}

impl Process {
    /// Starts one of Samovar's own programs: `samovar`, `samovar-operator`, `samovar-agent`.
    pub fn samovar<A: AsRef<OsStr>>(
        program: &str,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &Path)],
    ) -> Result<Self> {
        let mut command = Command::new(built(program)?);
        command.args(arguments).envs(environment.iter().copied());
        Self::start(program, command)
    }

    /// Starts a long-running `kubectl` in the namespace of a test.
    pub fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<Self> {
        let mut command = cluster.kubectl_command()?;
        command.args(arguments);
        Self::start("kubectl", command)
    }

    /// Starts `command`, with its output in a log file.
    pub(crate) fn start(name: &str, command: Command) -> Result<Self> {
        // reqwest needs a default crypto provider for calls over TLS. Only the first one is installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let log = scratch::folder(name)?.join("log");
        let (name, paused, quiet) = (name.to_owned(), false, false);
        let mut process = Self { name, kept: None, command, log, paused, quiet };
        process.start_again()?;
        Ok(process)
    }

    /// Starts a server of the bed, whose log is shown only if the bed does not become ready.
    pub(crate) fn quietly(name: &str, command: Command) -> Result<Self> {
        let mut process = Self::start(name, command)?;
        process.quiet = true;
        Ok(process)
    }

    /// Starts the same command again after it ended, and appends to its log.
    pub fn start_again(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.command.stdout(log.try_clone()?).stderr(log);
        self.kept = Some(
            Kept::spawn(&mut self.command)
                .with_context(|| format!("{} cannot be started", self.command.get_program().display()))?,
        );
        Ok(())
    }

    /// Sends SIGTERM and waits until it has exited.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(within).await
    }

    /// Sends SIGSTOP: it hangs.
    pub fn pause(&mut self) -> Result<()> {
        self.paused = true;
        self.signal(Signal::STOP)
    }

    /// Sends SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.paused = false;
        self.signal(Signal::CONT)
    }

    /// True after it was killed or paused.
    pub(crate) fn is_stopped(&self) -> bool {
        self.kept.is_none() || self.paused
    }

    /// Resumes it if it was paused, starts it if it was killed.
    pub(crate) fn restore(&mut self) -> Result<()> {
        if self.kept.is_none() {
            self.start_again()?;
        }
        if self.paused { self.resume() } else { Ok(()) }
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        // Not reaped yet, so the PID is still its own.
        if self.exit_status()?.is_none()
            && let Some(kept) = &self.kept
        {
            let id = i32::try_from(kept.id()).ok().and_then(Pid::from_raw);
            kill_process(id.context("a process has a PID")?, signal)?;
        }
        Ok(())
    }

    /// Sends SIGKILL and waits until it has exited.
    pub fn kill(&mut self) {
        self.kept = None;
        self.paused = false;
    }

    /// Waits until it exits.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        let mut look = interval(LOOK);
        while Instant::now() < deadline {
            look.tick().await;
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
        }
        bail!("{} still runs after {within:?}", self.name)
    }

    /// Its exit status, if it has exited.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        let Some(kept) = &mut self.kept else { bail!("{} is not running", self.name) };
        Ok(kept.ended()?)
    }

    /// Its PID, for `/proc`.
    pub fn id(&self) -> Option<u32> {
        self.kept.as_ref().map(Kept::id)
    }

    /// Its output so far: stdout and stderr.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Waits until a GET of `url` succeeds.
    pub async fn answers(&mut self, url: &str, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut look = interval(LOOK);
        loop {
            look.tick().await;
            let answer = match reqwest::get(url).await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.status().to_string(),
                Err(error) => error.to_string(),
            };
            if let Some(status) = self.exit_status()? {
                bail!("{} ended ({status}) before {url} answered:\n{}", self.name, self.last_lines());
            }
            if Instant::now() > deadline {
                bail!("{url} does not answer after {within:?}: {answer}");
            }
        }
    }

    pub(crate) fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if !self.quiet {
            // The test runner shows this only if the test fails.
            println!("--- log of {} ({}) ---\n{}", self.name, self.log.display(), self.last_lines());
        }
    }
}

/// The path of one of Samovar's own programs.
pub(crate) fn built(program: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("SAMOVAR_BIN_DIR").context(
        "SAMOVAR_BIN_DIR is not set: run `make test`, or set it to the folder of the built programs",
    )?;
    Ok(Path::new(&folder).join(program))
}

/// A free TCP port of 127.0.0.1, never the same twice.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(port);
        }
    }
}

/// `command`, started through another program with these arguments.
pub(crate) fn through<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
    command: &Command,
) -> Command {
    let mut through = Command::new(program);
    through.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => through.env(name, value),
            None => through.env_remove(name),
        };
    }
    through
}

/// A command that runs the program `name` of the test bed.
pub(crate) fn bed_program(name: &str) -> Result<Command> {
    bed_file(name).map(Command::new)
}

/// The path of the program `name` of the test bed; with an empty name, the folder of all.
pub(crate) fn bed_file(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("SAMOVAR_TESTBED_BIN").context(
        "SAMOVAR_TESTBED_BIN is not set: run `make test`, or `make testbed` and set it to the folder that is printed",
    )?;
    let program = Path::new(&folder).join(name);
    File::open(&program).with_context(|| {
        format!(
            "SAMOVAR_TESTBED_BIN has no {name}: run `make testbed` and set it to the folder that is printed"
        )
    })?;
    Ok(program)
}
