//! `samovar-testbed`: starts and stops a cluster to try Samovar in. `make cluster-up` and `make cluster-down` call it.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use samovar_testbed::{Registry, TestBed, eventually, push_client, push_images, scratch};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, interval},
};

const NODES: u8 = 3;
const START: Duration = Duration::from_mins(5);
const STOP: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let outcome = match command.as_deref() {
        Some("up") => up().await,
        Some("down") => down().await,
        Some("serve") => serve().await,
        Some("images") => images().await,
        _ => Err(anyhow::anyhow!("usage: samovar-testbed up | down | serve | images REGISTRY")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts a cluster that outlives this program.
async fn up() -> Result<()> {
    let folder = folder()?;
    if running(&folder).is_some() {
        bail!("a cluster runs already, or is being started:\n{}", message(&folder).unwrap_or_default());
    }
    fs::create_dir_all(&folder)?;
    let log = folder.join("log");
    let file = File::create(&log)?;
    let mut serve = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()?;
    // From here on `down` finds it, whatever becomes of this program.
    fs::write(folder.join("pid"), serve.id().to_string())?;
    let deadline = Instant::now() + START;
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        if let Ok(message) = message(&folder) {
            print!("{message}");
            return Ok(());
        }
        if serve.try_wait()?.is_some() || Instant::now() > deadline {
            let why = fs::read_to_string(log).unwrap_or_default();
            down().await?;
            bail!("the cluster does not start: {}", why.trim());
        }
    }
}

/// Stops it, and waits until nothing of it is left.
async fn down() -> Result<()> {
    let folder = folder()?;
    let Some(process) = running(&folder) else {
        println!("no cluster runs");
        return Ok(fs::remove_dir_all(folder).or_else(not_there)?);
    };
    kill_process(process, Signal::TERM)?;
    // Empty for a cluster that ended before it had written the file.
    let scratch = fs::read_to_string(folder.join("scratch")).unwrap_or_default();
    eventually(STOP, LOOK, async || {
        ensure!(running(&folder).is_none(), "the cluster still runs after {STOP:?}");
        // The janitor removes its files last.
        ensure!(!Path::new(&scratch).exists(), "{scratch} is still there after {STOP:?}");
        Ok(())
    })
    .await?;
    Ok(fs::remove_dir_all(folder)?)
}

fn not_there(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Runs a cluster until SIGTERM or SIGINT.
async fn serve() -> Result<()> {
    let folder = folder()?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    fs::write(folder.join("scratch"), scratch().as_os_str().as_encoded_bytes())?;
    let serve = async {
        let mut bed = TestBed::start(NODES).await?;
        let kubeconfig = folder.join("kubeconfig");
        fs::copy(bed.kubeconfig(), &kubeconfig)?;
        push_images(bed.registry()).await?;
        push_client(bed.registry()).await?;
        let registry = bed.registry().address().to_owned();
        // Written whole or not at all: `up` waits for it.
        fs::write(folder.join("message.new"), instructions(&kubeconfig, &registry))?;
        fs::rename(folder.join("message.new"), folder.join("message"))?;
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        failed = serve => failed,
    }
}

/// Pushes images of the built programs to a running registry.
async fn images() -> Result<()> {
    let registry = std::env::args().nth(2).context("no registry: use make images REGISTRY=HOST:PORT")?;
    for image in push_images(&Registry::at(registry)?).await? {
        println!("{image}");
    }
    Ok(())
}

fn instructions(kubeconfig: &Path, registry: &str) -> String {
    format!(
        "A cluster of {NODES} nodes runs. Its registry, without TLS: {registry}\n\n\
         export KUBECONFIG={}\n\
         helm install samovar charts/samovar --namespace samovar-system --create-namespace --wait \\\n  \
         --set global.imageRegistry={registry} --set registry.insecure={{{registry}}}\n",
        kubeconfig.display()
    )
}

/// The folder with the state of the one cluster of this user.
fn folder() -> Result<PathBuf> {
    let cache = std::env::var_os("SAMOVAR_CACHE").context("SAMOVAR_CACHE is not set: use make cluster-up")?;
    Ok(Path::new(&cache).join("cluster"))
}

fn message(folder: &Path) -> Result<String> {
    Ok(fs::read_to_string(folder.join("message"))?)
}

/// The process that runs the cluster, if one does.
fn running(folder: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(folder.join("pid")).ok()?.parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    // A zombie has no command line.
    (command.contains("samovar-testbed") && command.contains("serve")).then(|| Pid::from_raw(pid)).flatten()
}
