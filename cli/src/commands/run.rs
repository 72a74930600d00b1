//! `samovar run`: runs the node agent without a cluster, with its desired state read from files.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use notify::{RecursiveMode, Watcher as _};
use samovar_crds::State;
use samovar_node_agent::{Agent, AgentOptions, Desired, Key, Report, options::Bounds};
use samovar_runtime::NetworkOptions;
use samovar_telemetry::logs;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    module::RegistryArgs,
    output::{Failure, Output},
    progress,
    sources::Sources,
};

/// Run plugins on this machine, without a cluster.
///
/// A PATH is a manifest, a folder of manifests, or a .wasm or .wat file, which becomes a plugin of that name with
/// defaults for every field. Files are watched: an edit starts a new revision; while the edit is invalid, the previous
/// revision keeps serving.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Manifests, folders of manifests, and modules. Default: the working directory.
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// The address for calls.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The address of the admin port: /healthz, /readyz and /metrics.
    #[arg(long, default_value = "127.0.0.1:8081")]
    ops_listen: SocketAddr,
    /// The namespace of plugins whose manifest has none.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// The folder for cached modules and compiled code. Default: `samovar/run` in the user's cache folder.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Exit once every plugin is ready or failed: with 0 if all are ready, else with 3.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    bounds: Bounds,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Debounce delay of file events, since editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    logs::init(logs::Format::Text, "warn,samovar::guest=info");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    runtime.block_on(serve(args, output))
}

async fn serve(args: &Args, output: Output) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let mut sources = Sources::new(args.paths.clone(), args.namespace.clone(), args.registry.client()?);
    let (mut edits, _watcher) = watched(&args.paths)?;
    let first = sources.read().await;
    if let (true, Some(mistake)) = (first.is_empty(), sources.mistakes().first()) {
        return Err(Failure::bad_input(mistake));
    }
    if first.is_empty() {
        return Err(Failure::bad_input("no WasmPlugin in these paths; name a manifest or a .wasm file"));
    }
    let (wanted, desired) = watch::channel(first);
    let agent = Agent::start(options(args)?, desired).map_err(Failure::failed)?;
    let mut console = Console { output, address: agent.address, printed: BTreeMap::new(), bar: None };
    console.mistakes(&sources);
    let mut changed = agent.reports().subscribe();
    loop {
        console.update(agent.reports().all());
        agent.set_ready(console.all_settled(&wanted.borrow()));
        if args.once && console.all_settled(&wanted.borrow()) {
            let verdict = console.verdict(&sources);
            agent.shutdown().await;
            return verdict;
        }
        tokio::select! {
            _ = changed.changed() => {}
            Some(()) = edits.recv() => {
                tokio::time::sleep(DEBOUNCE).await;
                while edits.try_recv().is_ok() {}
                let desired = sources.read().await;
                console.mistakes(&sources);
                wanted.send_if_modified(|wanted| {
                    let changed = *wanted != desired;
                    *wanted = desired;
                    changed
                });
            }
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    agent.shutdown().await;
    Ok(())
}

fn options(args: &Args) -> Result<AgentOptions, Failure> {
    let program = std::env::current_exe().map_err(Failure::failed)?;
    let state_dir = args.state_dir.clone().or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(
            cache
                .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?
                .join("samovar/run"),
        )
    });
    Ok(AgentOptions {
        listen: args.listen,
        ops_listen: args.ops_listen,
        state_dir: state_dir.ok_or_else(|| Failure::bad_input("HOME is not set; set --state-dir"))?,
        registry: args.registry.options(),
        operator: None,
        max_compiles: 2,
        max_instances: 1000,
        bounds: args.bounds.clone(),
        network: NetworkOptions::default(),
        compiler: args.bounds.compiler(program),
        drain_deadline: Duration::from_secs(25),
    })
}

/// Watches the paths; the receiver gets a message after a file may have changed.
fn watched(paths: &[PathBuf]) -> Result<(mpsc::Receiver<()>, notify::RecommendedWatcher), Failure> {
    // Capacity 1: a pending message announces later edits too.
    let (edited, edits) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = edited.try_send(());
        }
    })
    .map_err(Failure::failed)?;
    for path in paths {
        // Watches a file's folder, since editors replace a file by another of the same name.
        let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(path) };
        let folder = if folder.as_os_str().is_empty() { std::path::Path::new(".") } else { folder };
        let refuse = |error| Failure::bad_input(format!("{}: {error}", path.display()));
        watcher.watch(folder, RecursiveMode::NonRecursive).map_err(refuse)?;
    }
    Ok((edits, watcher))
}

/// Prints each plugin's state as it changes.
struct Console {
    output: Output,
    address: SocketAddr,
    /// The reports of the last update, so that only changes are printed.
    printed: BTreeMap<Key, Report>,
    bar: Option<indicatif::ProgressBar>,
}

impl Console {
    fn update(&mut self, reports: BTreeMap<Key, Report>) {
        let busy = reports.iter().find(|(_, report)| !settled(report));
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        for (key, report) in &reports {
            if self.printed.get(key) == Some(report) || !settled(report) {
                continue;
            }
            let Key { namespace, plugin, revision } = key;
            let url = format!("http://{}/v1/{namespace}/{plugin}", self.address);
            let value = json!({
                "namespace": namespace, "plugin": plugin, "revision": revision, "url": url,
                "state": report.state, "reason": report.reason, "message": report.message,
                "functions": report.functions,
            });
            if report.state == State::Ready {
                let callable = report.functions.iter().filter(|function| function.not_callable.is_none());
                let names: Vec<_> = callable.map(|function| function.name.as_str()).collect();
                self.output.print(
                    &value,
                    format_args!("{namespace}/{plugin} ready at {url} ({})", names.join(", ")),
                );
            } else if self.output == Output::Json {
                self.output.print(&value, "");
            } else {
                eprintln!("{namespace}/{plugin} failed: {}: {}", report.reason, report.message);
            }
        }
        if let (Some((key, report)), Output::Text) = (busy, self.output) {
            self.bar =
                Some(progress::spinner(&format!("{}/{}: {}", key.namespace, key.plugin, report.message)));
        }
        self.printed = reports;
    }

    fn mistakes(&self, sources: &Sources) {
        for mistake in sources.mistakes() {
            match self.output {
                Output::Text => eprintln!("{mistake}"),
                Output::Json => self.output.print(&json!({ "mistake": mistake }), ""),
            }
        }
    }

    fn all_settled(&self, desired: &Desired) -> bool {
        desired.keys().all(|key| self.printed.get(key).is_some_and(settled))
    }

    fn verdict(&self, sources: &Sources) -> Result<(), Failure> {
        let failed = self.printed.iter().filter(|(_, report)| report.state == State::Failed);
        let mut reasons: Vec<_> = failed
            .map(|(key, report)| {
                format!("{}/{}: {}: {}", key.namespace, key.plugin, report.reason, report.message)
            })
            .collect();
        reasons.extend(sources.mistakes().iter().cloned());
        if reasons.is_empty() { Ok(()) } else { Err(Failure::not_ready(reasons.join("\n       "))) }
    }
}

fn settled(report: &Report) -> bool {
    matches!(report.state, State::Ready | State::Failed)
}
