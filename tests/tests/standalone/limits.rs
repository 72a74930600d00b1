//! Limits over HTTP: a guest ends at its own, and its neighbours are unaffected.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use futures::future::join_all;
use samovar_testbed::{Process, eventually};
use tokio::time::Instant;

use crate::server::{SOON, Server, file, folder, plugin};

async fn guests(name: &str, plugins: &[(&str, &str, &str)]) -> Result<Server> {
    guests_with(name, plugins, &[]).await
}

async fn guests_with(name: &str, plugins: &[(&str, &str, &str)], flags: &[&str]) -> Result<Server> {
    let folder = folder(name)?;
    for (name, module, more) in plugins {
        let module_file = file(&format!("tests/guests/{module}"));
        fs::copy(module_file, folder.join(module))?;
        fs::write(folder.join(format!("{name}.yaml")), plugin(name, module, more))?;
    }
    Server::start_with(folder, flags).await
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_timeout_beside_a_neighbour_that_answers() -> Result<()> {
    let server =
        guests("spin", &[("spin", "spin.wat", "limits: { timeout: 300ms }"), ("echo", "echo.wat", "")])
            .await?;
    let started = Instant::now();
    let spins = join_all((0..4).map(|_| server.call("spin", "spin", "")));
    let calls = async {
        let mut slowest = Duration::ZERO;
        while started.elapsed() < Duration::from_millis(250) {
            let call = Instant::now();
            let answer = server.call("echo", "echo", "hello").await?;
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
            slowest = slowest.max(call.elapsed());
        }
        anyhow::Ok(slowest)
    };
    let (spun, slowest) = tokio::join!(spins, calls);
    let took = started.elapsed();
    for answer in spun {
        let answer = answer?;
        assert_eq!((answer.status, answer.problem().as_str()), (504, "timeout"), "{answer:?}");
    }
    assert!(took < Duration::from_secs(2), "it ended after {took:?}");
    assert!(slowest? < Duration::from_millis(250), "a neighbour's call took as long as a loop may");
    Ok(())
}

#[tokio::test]
async fn a_guest_that_grows_without_end_leaves_the_agents_memory_flat() -> Result<()> {
    let server = guests("grow", &[("grow", "grow.wat", "limits: { memory: 32Mi }")]).await?;
    let grows = async |function: &'static str| -> Result<()> {
        let answer = server.call("grow", function, "").await?;
        assert_eq!((answer.status, answer.problem().as_str()), (500, "memory-limit"), "{answer:?}");
        Ok(())
    };
    grows("minds").await?;
    let before = server.resident()?;
    for _ in 0..20 {
        grows("minds").await?;
        grows("ignores").await?;
    }
    let grown = server.resident()?.saturating_sub(before);
    assert!(grown < 16 << 10, "the agent grew by {grown} KiB over 40 calls of 32 MiB");
    Ok(())
}

#[tokio::test]
async fn demand_beyond_the_memory_budget_is_refused_and_the_agent_stays_within_it() -> Result<()> {
    let limits = "limits: { memory: 1Gi, timeout: 1s }";
    let plugins = [("one", "hoard.wat", limits), ("two", "hoard.wat", limits)];
    let server = guests_with("budget", &plugins, &["--memory-budget=64Mi"]).await?;
    let before = server.resident()?;
    // 16 calls of 16 MiB each; a call that gets its memory holds it until its timeout.
    let calls = (0..16).map(|at| server.call(["one", "two"][at % 2], "hold", "[255]"));
    let calls = join_all(calls);
    let watches = async {
        let mut most = 0;
        let mut look = tokio::time::interval(Duration::from_millis(5));
        loop {
            look.tick().await;
            most = server.resident()?.max(most);
            if most > before + (80 << 10) {
                return anyhow::Ok(most);
            }
        }
    };
    let answers = tokio::select! {
        answers = calls => answers,
        most = watches => anyhow::bail!("{} KiB are resident, and {before} were before the calls", most?),
    };
    let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
    let held = answers.iter().filter(|answer| answer.status == 504).count();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(held > 0 && !refused.is_empty() && held + refused.len() == 16, "{answers:?}");
    for answer in refused {
        assert_eq!((answer.problem().as_str(), answer.retry_after.as_deref()), ("overloaded", Some("1")));
        assert!(answer.body.contains("this node has no memory left for another call"), "{}", answer.body);
    }
    for plugin in ["one", "two"] {
        let answer = server.call(plugin, "hoard", "[255]").await?;
        assert_eq!((answer.status, answer.body.as_str()), (200, "256"));
        // More than the whole budget: refused even as the only call.
        assert_eq!(server.call(plugin, "hoard", "[2000]").await?.status, 503);
    }
    assert_eq!(server.metric("samovar_agent_memory_budget_bytes").await?, 64 << 20);
    assert!(server.metric("samovar_agent_memory_used_bytes").await? <= 64 << 20);
    Ok(())
}

#[tokio::test]
async fn the_65th_concurrent_call_of_64_is_refused_with_retry_after() -> Result<()> {
    let limits = "limits: { concurrency: 64, queue: 0, timeout: 1s }";
    let server = guests("full", &[("spin", "spin.wat", limits)]).await?;
    let answers = join_all((0..65).map(|_| server.call("spin", "spin", ""))).await;
    let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].problem().as_str(), refused[0].retry_after.as_deref()), ("overloaded", Some("1")));
    assert_eq!(answers.iter().filter(|answer| answer.status == 504).count(), 64);
    Ok(())
}

#[tokio::test]
async fn bodies_over_their_limits_are_refused_both_ways() -> Result<()> {
    let limits = "limits: { requestBytes: 1Ki, responseBytes: 512 }";
    let server = guests("bodies", &[("echo", "echo.wat", limits)]).await?;
    let answer = server.call("echo", "echo", "x".repeat(1025)).await?;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "too-large"));
    // Sent in chunks, without a content-length.
    let pieces = futures::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let answer = server.call("echo", "echo", reqwest::Body::wrap_stream(pieces)).await?;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "too-large"));
    let answer = server.call("echo", "echo", "x".repeat(600)).await?;
    assert_eq!((answer.status, answer.problem().as_str()), (502, "response-too-large"));
    assert_eq!(server.call("echo", "echo", "x".repeat(512)).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_body_beyond_the_memory_budget_is_refused() -> Result<()> {
    let plugins = [("echo", "echo.wat", "limits: { requestBytes: 8Mi }")];
    let server = guests_with("body-budget", &plugins, &["--memory-budget=4Mi"]).await?;
    let answer = server.call("echo", "echo", "x".repeat(6 << 20)).await?;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"), "{answer:?}");
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    assert_eq!(server.call("echo", "echo", "hello").await?.body, "hello");
    Ok(())
}

#[tokio::test]
async fn memory_of_large_bodies_is_returned_to_the_system() -> Result<()> {
    let folder = folder("given-back")?;
    fs::copy(file("examples/text/text.wasm"), folder.join("text.wasm"))?;
    fs::write(folder.join("text.yaml"), plugin("text", "text.wasm", "limits: { timeout: 30s }"))?;
    let server = Server::start_with(folder, &["--memory-budget=512Mi"]).await?;
    let entries = vec![r#"{"name":"a","score":1}"#; 40_000].join(",");
    let before = server.resident()?;
    for answer in join_all((0..4).map(|_| server.call("text", "rank", format!("[[{entries}]]")))).await {
        assert_eq!(answer?.status, 200);
    }
    eventually(SOON, Duration::from_millis(10), async || {
        let after = server.resident()?;
        ensure!(after <= before + (24 << 10), "{after} KiB are resident, and {before} were before");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_trap_includes_the_guests_backtrace_and_no_path() -> Result<()> {
    let server = guests("trap", &[("trap", "trap.wat", "")]).await?;
    let answer = server.call("trap", "fail", "").await?;
    assert_eq!((answer.status, answer.problem().as_str()), (500, "trap"));
    assert!(answer.body.contains("inner") && answer.body.contains("outer"), "{}", answer.body);
    assert!(!answer.body.contains(&server.folder.display().to_string()), "{}", answer.body);
    Ok(())
}

#[tokio::test]
async fn a_call_reports_its_fuel_and_ends_beyond_its_limit() -> Result<()> {
    let taken = {
        let server = guests("fuel", &[("logs", "logs.wat", "limits: { fuel: 1000000 }")]).await?;
        server.call("logs", "logs", "[3]").await?.fuel
    };
    let taken = taken.ok_or_else(|| anyhow::anyhow!("no fuel is reported"))?;
    for (fuel, status, problem) in [(taken, 200, ""), (taken - 1, 500, "fuel-exhausted")] {
        let limits = format!("functions: [{{ name: logs, limits: {{ fuel: {fuel} }} }}]");
        let server = guests(&format!("fuel-{fuel}"), &[("logs", "logs.wat", &limits)]).await?;
        let answer = server.call("logs", "logs", "[3]").await?;
        assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn log_lines_beyond_the_limit_are_dropped_and_counted_in_one_line() -> Result<()> {
    let plugins =
        [("few", "logs.wat", "limits: { logLines: 3 }"), ("many", "logs.wat", "limits: { logLines: 30 }")];
    let server = guests("log-lines", &plugins).await?;
    for plugin in ["few", "many"] {
        assert_eq!(server.call(plugin, "logs", "[50]").await?.status, 200);
    }
    for (plugin, dropped) in [("few", 47), ("many", 20)] {
        server.logs(&format!("plugin=\"default/{plugin}\" dropped={dropped}")).await?;
    }
    let log = server.process.log();
    let lines = |plugin: &str, text: &str| {
        let of_it = log.lines().filter(|line| line.contains(&format!("default/{plugin}")));
        of_it.filter(|line| line.contains(text)).count()
    };
    assert_eq!((lines("few", "a line of a guest"), lines("many", "a line of a guest")), (3, 30), "{log}");
    assert_eq!((lines("few", "dropped="), lines("many", "dropped=")), (1, 1), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_compile_beyond_its_time_or_memory_fails_and_names_the_limit() -> Result<()> {
    for (name, flag, reason) in [
        ("compile", "--compile-timeout=1m", None),
        ("compile-time", "--compile-timeout=1ms", Some("longer than its limit of 0.001 s")),
        ("compile-memory", "--compile-memory=24Mi", Some("its limit of 25165824 bytes of address space")),
    ] {
        let folder = folder(name)?;
        let arguments = [
            "run".to_owned(),
            "--once".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--ops-listen=127.0.0.1:0".to_owned(),
            format!("--state-dir={}", folder.join("state").display()),
            flag.to_owned(),
            file("examples/text/text.wasm").display().to_string(),
        ];
        let mut run = Process::samovar("samovar", arguments, &[])?;
        let code = run.ended(SOON).await?.code();
        let log = run.log();
        match reason {
            None => assert_eq!(code, Some(0), "{log}"),
            Some(reason) => {
                assert_eq!(code, Some(3), "{log}");
                assert!(log.contains("CompileFailed") && log.contains(reason), "{log}");
            }
        }
    }
    Ok(())
}
