//! The temporary folder of a test process, and the janitor that removes it at the end, with all that still runs.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::OnceLock,
};

/// Waits until the test process is gone (its end of the pipe closes, whatever killed it), then kills the processes
/// listed in `pids/`, runs the scripts in `at-end/` and removes the folder. Statics are never dropped, so no guard could
/// do it.
const JANITOR: &str = r#"
trap '' INT TERM HUP
read -r _
cd "$1" || exit
for pid in pids/*; do kill -KILL "${pid#pids/}"; done
for undo in at-end/*; do sh "$undo"; done
[ -n "$2" ] && exit
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && break; sleep 0.1; done
"#;

struct Scratch {
    folder: PathBuf,
    _janitor: Child,
    _pipe: Option<ChildStdin>,
}

/// The folder of this test process. It is removed when the process ends, unless `SAMOVAR_KEEP` is set.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<Scratch> = OnceLock::new();
    &SCRATCH.get_or_init(start).folder
}

fn start() -> Scratch {
    let folder = tempfile::Builder::new()
        .prefix("samovar-test-")
        .tempdir()
        .expect("a temporary folder can be made")
        .keep();
    for inside in ["pids", "at-end"] {
        fs::create_dir(folder.join(inside)).expect("a new folder can be written to");
    }
    let mut janitor = Command::new("sh")
        .args(["-c", JANITOR, "janitor"])
        .arg(&folder)
        .arg(std::env::var_os("SAMOVAR_KEEP").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // In a process group of its own: a signal to the tests' group must not reach it.
        .process_group(0)
        .spawn()
        .expect("sh can be started");
    let pipe = janitor.stdin.take();
    Scratch { folder, _janitor: janitor, _pipe: pipe }
}

/// A new folder inside the scratch folder, its name starting with `name`.
pub(crate) fn folder(name: &str) -> std::io::Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(scratch())?.keep())
}

/// Leaves a shell script to the janitor, which runs it after this process has exited and its children are killed.
pub(crate) fn at_end(name: &str, script: &str) -> std::io::Result<()> {
    fs::write(scratch().join("at-end").join(name), script)
}

/// A child process that is listed for the janitor; killed and reaped when dropped.
pub(crate) struct Kept {
    child: Child,
    note: PathBuf,
}

impl Kept {
    /// Its PID, until its exit is seen.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has exited. From then on its PID may be another process's, so it is listed no more.
    pub(crate) fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            let _ = fs::remove_file(&self.note);
        }
        Ok(status)
    }

    pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        let note = scratch().join("pids").join(child.id().to_string());
        fs::write(&note, "")?;
        Ok(Self { child, note })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Either fails only for a process that was reaped before, and then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Only now, when the PID can become another process's.
        let _ = fs::remove_file(&self.note);
    }
}
