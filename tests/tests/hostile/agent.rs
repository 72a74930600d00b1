//! An agent with hostile modules, a full disk or a read-only one: it reports what is wrong, and keeps serving.

use std::fs;

use anyhow::{Result, ensure};
use samovar_testbed::server::{Server, file, folder, plugin};

use crate::{cases::case, count};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_survives_hostile_modules() -> Result<()> {
    let folder = folder("hostile-modules")?;
    let first = count("SAMOVAR_HOSTILE_SEED", 1_000_000);
    let modules = count("SAMOVAR_HOSTILE_AGENT_MODULES", 60);
    for seed in first..first + modules {
        let name = format!("m{seed}");
        fs::write(folder.join(format!("{name}.wasm")), case(seed).bytes)?;
        let limits = "limits: { timeout: 100ms, memory: 16Mi }, instances: { warm: 1 }";
        fs::write(folder.join(format!("{name}.yaml")), plugin(&name, &format!("{name}.wasm"), limits))?;
    }
    fs::copy(file("tests/guests/echo.wat"), folder.join("echo.wat"))?;
    fs::write(folder.join("echo.yaml"), plugin("echo", "echo.wat", ""))?;
    let mut server = Server::start(folder).await?;
    server.answers("echo", "echo", "hello", "hello").await?;
    for seed in first..first + modules {
        let answer = server.call(&format!("m{seed}"), "f", "").await?;
        ensure!(answer.status >= 400 && !answer.problem().is_empty(), "seed {seed}: {answer:?}");
    }
    ensure!(server.process.exit_status()?.is_none(), "the agent exited");
    let log = server.process.log();
    let refused = log.lines().filter(|line| line.contains(" failed: ")).count();
    let reasons = ["ModuleInvalid", "CompileFailed", "ExportNotFound", "ImportNotGranted", "InitFailed"];
    let reasoned = log
        .lines()
        .filter(|line| line.contains(" failed: ") && reasons.iter().any(|reason| line.contains(reason)));
    ensure!(refused > 0 && reasoned.count() == refused, "a refusal has no reason:\n{log}");
    println!("{refused} of {modules} modules were refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_full_disk_serves() -> Result<()> {
    let folder = folder("hostile-disk")?;
    fs::copy(file("examples/text/text.wasm"), folder.join("text.wasm"))?;
    fs::write(folder.join("text.yaml"), plugin("text", "text.wasm", ""))?;
    let mut server = Server::start_on_a_small_disk(folder, 128).await?;
    server.answers("text", "upper", r#"["hello"]"#, r#""HELLO""#).await?;
    let log = server.process.log();
    ensure!(log.contains("could not be kept"), "the disk has room for the artifact, and was to be too small");
    ensure!(server.process.exit_status()?.is_none(), "the agent exited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_a_read_only_disk_loads_its_artifacts_and_compiles_the_rest() -> Result<()> {
    let folder = folder("hostile-read-only")?;
    fs::copy(file("examples/text/text.wasm"), folder.join("text.wasm"))?;
    fs::write(folder.join("text.yaml"), plugin("text", "text.wasm", ""))?;
    Server::start(folder.clone()).await?.answers("text", "upper", r#"["hello"]"#, r#""HELLO""#).await?;

    fs::copy(file("tests/guests/echo.wat"), folder.join("echo.wat"))?;
    fs::write(folder.join("echo.yaml"), plugin("echo", "echo.wat", ""))?;
    let mut server = Server::start_on_a_read_only_disk(folder).await?;
    server.answers("text", "upper", r#"["hello"]"#, r#""HELLO""#).await?;
    server.answers("echo", "echo", "hello", "hello").await?;
    let log = server.process.log();
    ensure!(log.matches("an artifact could not be kept").count() == 1, "exactly one module is new:\n{log}");
    let state = server.folder.join("state").display().to_string();
    ensure!(!log.contains(&state), "the log contains a path:\n{log}");
    ensure!(server.process.exit_status()?.is_none(), "the agent exited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fiber_stacks_of_deep_calls_are_decommitted() -> Result<()> {
    let folder = folder("hostile-stacks")?;
    fs::copy(file("tests/guests/hostile/cpu.wat"), folder.join("cpu.wat"))?;
    fs::write(folder.join("cpu.yaml"), plugin("cpu", "cpu.wat", "instances: { warm: 1 }"))?;
    let server = Server::start(folder).await?;
    let call = async || {
        let answer = server.call("cpu", "recurse", "").await?;
        ensure!(answer.problem() == "trap", "{answer:?}");
        Ok(())
    };
    call().await?;
    let before = server.resident()?;
    // More calls than stacks that are kept for reuse; each was 512 KiB deep.
    for _ in 0..200 {
        call().await?;
    }
    let after = server.resident()?;
    ensure!(after < before + (10 << 10), "{after} KiB, and {before} before");
    Ok(())
}
