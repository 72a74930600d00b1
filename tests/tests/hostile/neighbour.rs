//! Guests that do all they can to a running agent, and the plugin beside them that notices nothing.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, future::join_all, stream};
use samovar_tests::server::{Server, file, folder, plugin};
use tokio::time::interval;

use crate::behaviours::{BEHAVIOURS, Behaviour};

/// The limit of a hostile call.
const TIMEOUT: Duration = Duration::from_millis(200);
/// How much later than that it may be over.
const LATE: Duration = Duration::from_millis(200);
/// How long the neighbour is watched before each hostile guest.
const QUIET: Duration = Duration::from_millis(50);
/// How long a guest that ends at once is called again.
const AGAIN: Duration = Duration::from_millis(50);
/// What the agent's memory may have grown by when all is over, in KiB.
const GROWN: u64 = 10 << 10;

/// How long calls of the neighbour took.
#[derive(Default)]
struct Calls(Vec<Duration>);

impl Calls {
    fn slowest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    fn p99(&mut self) -> Duration {
        self.0.sort_unstable();
        self.0[self.0.len() * 99 / 100]
    }
}

async fn agent() -> Result<Server> {
    let folder = folder("hostile")?;
    let limits = format!(
        "limits: {{ timeout: {}ms, memory: 16Mi, responseBytes: 1Mi }}, instances: {{ warm: 1 }}",
        TIMEOUT.as_millis()
    );
    let modules: BTreeSet<_> = BEHAVIOURS.iter().map(|(module, ..)| *module).collect();
    for module in modules {
        let name = format!("{module}.wat");
        fs::copy(file(&format!("tests/guests/hostile/{name}")), folder.join(&name))?;
        fs::write(folder.join(format!("{module}.yaml")), plugin(module, &name, &limits))?;
    }
    fs::copy(file("tests/guests/echo.wat"), folder.join("echo.wat"))?;
    fs::write(folder.join("neighbour.yaml"), plugin("neighbour", "echo.wat", ""))?;
    Server::start(folder).await
}

/// Calls the neighbour, one call after another, for as long as `meanwhile` takes.
async fn beside<T>(
    client: &reqwest::Client,
    server: &Server,
    calls: &mut Calls,
    meanwhile: impl Future<Output = T>,
) -> Result<T> {
    let url = format!("{}/v1/default/neighbour/echo", server.url);
    let steady = async {
        loop {
            let started = Instant::now();
            let answer = client.post(&url).body("hello").send().await?;
            ensure!(answer.status() == 200, "the neighbour's call: {answer:?}");
            ensure!(answer.text().await? == "hello");
            calls.0.push(started.elapsed());
        }
    };
    tokio::select! {
        done = meanwhile => Ok(done),
        failed = steady => failed,
    }
}

/// One call, and how long it took.
async fn one(server: &Server, (module, function, body, ends): &Behaviour) -> Result<Duration> {
    let started = Instant::now();
    let answer =
        server.call(module, function, *body).await.with_context(|| format!("{module}/{function}"))?;
    let took = started.elapsed();
    let ended = (answer.status, &*answer.problem());
    ensure!(ends.contains(&ended), "{module}/{function} ended otherwise: {answer:?}");
    ensure!(answer.body.len() <= 2 << 20, "{module}/{function}: {} bytes", answer.body.len());
    Ok(took)
}

/// Two at once, again where they end early; the longest that one took.
async fn attack(server: &Server, behaviour: &Behaviour) -> Result<Duration> {
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    while started.elapsed() < AGAIN {
        for took in join_all([one(server, behaviour), one(server, behaviour)]).await {
            longest = longest.max(took?);
        }
    }
    Ok(longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_guest_ends_at_its_limit_and_its_neighbour_does_not_notice() -> Result<()> {
    let mut server = agent().await?;
    let mut wrong: Vec<_> = stream::iter(BEHAVIOURS)
        .map(|behaviour| one(&server, behaviour))
        .buffer_unordered(8)
        .filter_map(async |ended| ended.err().map(|error| format!("{error:#}")))
        .collect()
        .await;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    let before = server.resident()?;
    let client = reqwest::Client::new();
    let (mut quiet, mut hostile) = (Calls::default(), Calls::default());
    for behaviour in BEHAVIOURS {
        let (module, function, ..) = behaviour;
        beside(&client, &server, &mut quiet, tokio::time::sleep(QUIET)).await?;
        let mut meanwhile = Calls::default();
        let took = beside(&client, &server, &mut meanwhile, attack(&server, behaviour)).await??;
        // A call of a guest that does nothing takes this long on this machine just now: that is not the hostile one's.
        let measuring = meanwhile.slowest();
        if took > TIMEOUT + LATE + measuring {
            wrong.push(format!(
                "{module}/{function} took {took:?}, and its neighbour's slowest call {measuring:?}"
            ));
        }
        hostile.0.extend(meanwhile.0);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (alone, beside) = (quiet.p99(), hostile.p99());
    println!(
        "{} behaviours; the neighbour's p99 {alone:?} over {} calls alone, {beside:?} over {} beside them",
        BEHAVIOURS.len(),
        quiet.0.len(),
        hostile.0.len()
    );
    ensure!(
        beside <= 2 * alone,
        "the neighbour's p99 is {beside:?} beside hostile guests, and {alone:?} alone"
    );

    ensure!(server.process.exit_status()?.is_none(), "the agent ended");
    let log = server.process.log();
    let forged = log
        .lines()
        .find(|line| line.starts_with("forged") || line.chars().any(|c| c.is_control() && c != '\t'));
    ensure!(forged.is_none(), "a guest wrote into the log by itself: {forged:?}");
    let mut look = interval(Duration::from_millis(20));
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.resident()? > before + GROWN {
        ensure!(Instant::now() < deadline, "{} KiB are left, and there were {before}", server.resident()?);
        look.tick().await;
    }
    println!("the agent has {} KiB after them all, and had {before}", server.resident()?);
    Ok(())
}
