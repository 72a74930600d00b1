//! Hostile guests on a running agent, and the latency of a neighbour beside them.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use reqwest::Body;
use samovar_testbed::{
    eventually,
    server::{SOON, Server, file, folder, plugin, problem},
    upstream::Upstream,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    behaviours::{BEHAVIOURS, Behaviour, CUT, UPSTREAM, WITHHELD},
    upstream,
};

/// The timeout of a hostile call.
const TIMEOUT: Duration = Duration::from_millis(200);
/// The delay after its timeout with which a call may end.
const LATE: Duration = Duration::from_millis(200);
/// The time in which the neighbour is measured alone, before each hostile guest.
const QUIET: Duration = Duration::from_millis(50);
/// The time in which a guest that ends at once is called again, and the interval. Calls without a pause would delay
/// others whatever their guests do.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_EVERY: Duration = Duration::from_millis(10);
/// The interval of the neighbour's calls.
const PACE: Duration = Duration::from_millis(2);
/// The tries of a measurement before a late one counts.
const TRIES: u32 = 3;
/// The growth of the agent's memory that may remain in the end, in KiB.
const GROWN: u64 = 10 << 10;

/// Calls of the neighbour, one after another at a steady pace, from a thread of their own, so that their times include
/// nothing that the test does meanwhile.
struct Neighbour {
    hostile: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

struct Call {
    hostile: bool,
    started: Instant,
    took: Duration,
}

impl Neighbour {
    fn start(url: String) -> Self {
        let [hostile, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let calls = Arc::default();
        let thread = {
            let (hostile, stop, calls) = (Arc::clone(&hostile), Arc::clone(&stop), Arc::clone(&calls));
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(steady(&url, &hostile, &stop, &calls))
            })
        };
        Self { hostile, calls, stop, thread }
    }

    fn beside(&self, hostile: bool) {
        self.hostile.store(hostile, Ordering::Relaxed);
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap()
    }

    /// The duration of the slowest call since then.
    fn slowest_since(&self, since: Instant) -> Duration {
        let calls = self.calls();
        calls
            .iter()
            .rev()
            .take_while(|call| call.started >= since)
            .map(|call| call.took)
            .max()
            .unwrap_or_default()
    }

    /// The number of calls beside hostile guests, or alone, and their p99.
    fn p99(&self, hostile: bool) -> (usize, Duration) {
        let mut took: Vec<_> =
            self.calls().iter().filter(|call| call.hostile == hostile).map(|call| call.took).collect();
        took.sort_unstable();
        (took.len(), took[took.len() * 99 / 100])
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn steady(url: &str, hostile: &AtomicBool, stop: &AtomicBool, calls: &Mutex<Vec<Call>>) -> Result<()> {
    let client = reqwest::Client::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let (hostile, started) = (hostile.load(Ordering::Relaxed), Instant::now());
        let answer = client.post(url).body("hello").send().await?;
        ensure!(answer.status() == 200, "the neighbour's call: {answer:?}");
        ensure!(answer.text().await? == "hello");
        calls.lock().unwrap().push(Call { hostile, started, took: started.elapsed() });
    }
    Ok(())
}

async fn agent(upstream: &Upstream) -> Result<Server> {
    let folder = folder("hostile")?;
    let limits = format!(
        "limits: {{ timeout: {}ms, memory: 16Mi, responseBytes: 1Mi }}, instances: {{ warm: 1 }}",
        TIMEOUT.as_millis()
    );
    let granted = |grants: &str| format!("{limits}, securityPolicy: {{ {grants} }}");
    let network = format!("network: {{ allowedHosts: ['{}'] }}", upstream.authority);
    let scratch = "files: [{ path: /tmp, scratch: { sizeLimit: 1Mi } }]";
    let modules: BTreeSet<_> = BEHAVIOURS.iter().map(|(module, ..)| *module).collect();
    for module in modules {
        let (path, spec) = match module {
            "web" => ("http/http.wasm", format!("type: Http, {limits}")),
            "out" => ("outgoing/outgoing.wasm", granted(&network)),
            "files" => ("files/files.wasm", granted(scratch)),
            _ => (&*format!("hostile/{module}.wat"), limits.clone()),
        };
        let name = path.replace('/', "-");
        fs::copy(file("tests/guests").join(path), folder.join(&name))?;
        fs::write(folder.join(format!("{module}.yaml")), plugin(module, &name, &spec))?;
    }
    fs::copy(file("tests/guests/echo.wat"), folder.join("echo.wat"))?;
    fs::write(folder.join("neighbour.yaml"), plugin("neighbour", "echo.wat", ""))?;
    Server::start(folder).await
}

/// Makes one call, checks its end, and returns its duration.
async fn one(server: &Server, upstream: &Upstream, behaviour: &Behaviour) -> Result<Duration> {
    let (module, function, body, ends) = behaviour;
    let what = || format!("{module}/{function} {body}");
    let body = match *body {
        WITHHELD => Body::wrap_stream(stream::pending::<Result<Vec<u8>>>()),
        body => body.replace(UPSTREAM, &upstream.authority).into(),
    };
    let started = Instant::now();
    let answer = server.ask(module, function, body).await.with_context(what)?;
    let status = answer.status().as_u16();
    let kind = match answer.text().await {
        Ok(text) => {
            ensure!(text.len() <= 2 << 20, "{}: {} bytes", what(), text.len());
            problem(&text)
        }
        Err(_) => CUT.to_owned(),
    };
    let took = started.elapsed();
    ensure!(ends.contains(&(status, &*kind)), "{} ended in an unexpected way: {status} {kind}", what());
    Ok(took)
}

/// Runs every behaviour beside the neighbour: each ends in time, and the neighbour's p99 is at most twice that alone.
async fn beside_a_neighbour(server: &Server, upstream: &Upstream) -> Result<()> {
    let neighbour = Neighbour::start(format!("{}/v1/default/neighbour/echo", server.url));
    for behaviour in BEHAVIOURS {
        neighbour.beside(false);
        tokio::time::sleep(QUIET).await;
        neighbour.beside(true);
        let mut tries = 0;
        loop {
            let started = Instant::now();
            let took = attack(server, upstream, behaviour).await?;
            // A harmless call takes this long on this machine just now: that part is not the hostile guest's.
            let measuring = neighbour.slowest_since(started);
            if took <= TIMEOUT + LATE + measuring {
                break;
            }
            tries += 1;
            ensure!(
                tries < TRIES,
                "{behaviour:?} took {took:?}, and its neighbour's slowest call {measuring:?}"
            );
        }
    }
    let ((quiet, alone), (calls, beside)) = (neighbour.p99(false), neighbour.p99(true));
    neighbour.stop()?;
    println!(
        "{} behaviours; the neighbour's p99: {alone:?} over {quiet} calls alone, {beside:?} over {calls} beside them",
        BEHAVIOURS.len(),
    );
    ensure!(
        beside <= 2 * alone,
        "the neighbour's p99 is {beside:?} beside hostile guests, and {alone:?} alone"
    );
    Ok(())
}

/// Repeats a behaviour that ends early; returns its longest duration.
async fn attack(server: &Server, upstream: &Upstream, behaviour: &Behaviour) -> Result<Duration> {
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    let mut pace = interval(AGAIN_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while started.elapsed() < AGAIN {
        pace.tick().await;
        longest = longest.max(one(server, upstream, behaviour).await?);
    }
    Ok(longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_guest_ends_at_its_limit_and_its_neighbour_is_unaffected() -> Result<()> {
    let upstream = Upstream::start(upstream::serve).await?;
    let mut server = agent(&upstream).await?;
    let wrong: Vec<_> = stream::iter(BEHAVIOURS)
        .map(|behaviour| one(&server, &upstream, behaviour))
        .buffer_unordered(4)
        .filter_map(async |ended| ended.err().map(|error| format!("{error:#}")))
        .collect()
        .await;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    let before = server.resident()?;
    // A guest that delays its neighbour does so each time; a busy machine may do so once.
    let mut tries = 0;
    while let Err(error) = beside_a_neighbour(&server, &upstream).await {
        tries += 1;
        ensure!(tries < TRIES, "{error:#}");
        println!("{error:#}: tried again");
    }

    ensure!(server.process.exit_status()?.is_none(), "the agent exited");
    let log = server.process.log();
    let forged = log
        .lines()
        .find(|line| line.starts_with("forged") || line.chars().any(|c| c.is_control() && c != '\t'));
    ensure!(forged.is_none(), "a guest forged a line of the log: {forged:?}");
    let after = eventually(SOON, Duration::from_millis(20), async || {
        let after = server.resident()?;
        ensure!(after <= before + GROWN, "{after} KiB are resident, and {before} were before");
        Ok(after)
    })
    .await?;
    println!("the agent has {after} KiB after them all, and had {before}");
    Ok(())
}
