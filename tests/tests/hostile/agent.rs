//! A whole agent that is given hostile modules, or a disk that is full: it says what is wrong and goes on.

use std::fs;

use anyhow::{Result, ensure};
use samovar_testbed::server::{Server, file, folder, plugin};

use crate::{cases::case, count};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_whatever_modules_it_is_given() -> Result<()> {
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
    ensure!(server.process.exit_status()?.is_none(), "the agent ended");
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
async fn an_agent_whose_disk_is_full_serves_all_the_same() -> Result<()> {
    let folder = folder("hostile-disk")?;
    fs::copy(file("examples/text/text.wasm"), folder.join("text.wasm"))?;
    fs::write(folder.join("text.yaml"), plugin("text", "text.wasm", ""))?;
    let mut server = Server::start_on_a_small_disk(folder, 128).await?;
    server.answers("text", "upper", r#"["hello"]"#, r#""HELLO""#).await?;
    let log = server.process.log();
    ensure!(
        log.contains("could not be kept"),
        "its disk is large enough for what it was to be too small for"
    );
    ensure!(server.process.exit_status()?.is_none(), "the agent ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_can_write_nothing_loads_what_it_kept_and_compiles_the_rest_each_time() -> Result<()> {
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
    ensure!(log.matches("an artifact could not be kept").count() == 1, "one module was new:\n{log}");
    let state = server.folder.join("state").display().to_string();
    ensure!(!log.contains(&state), "its log names a path:\n{log}");
    ensure!(server.process.exit_status()?.is_none(), "the agent ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deep_calls_took_of_their_stacks_goes_back() -> Result<()> {
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
    // More than there are stacks that are kept for the next call; each was 512 KiB deep.
    for _ in 0..200 {
        call().await?;
    }
    let after = server.resident()?;
    ensure!(after < before + (10 << 10), "{after} KiB, and {before} before");
    Ok(())
}
