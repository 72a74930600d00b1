//! The examples: the commands of each README are run as they stand, and print what it says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::join_all;
use samovar_testbed::{Process, free_port};
use tokio::{process::Command, time::timeout};

use crate::server::{SOON, file, folder};

/// The address in every README and manifest; each run has a port of its own.
const ADDRESS: &str = "127.0.0.1:8080";
/// Go's first build on a machine compiles its standard library too.
const COMMAND: Duration = Duration::from_mins(5);

/// A command of a README's console blocks, and what the README says that it prints.
struct Step {
    command: String,
    printed: String,
}

fn steps(readme: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        for line in block.lines().take_while(|line| !line.starts_with("```")) {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { command: command.to_owned(), printed: String::new() });
            } else {
                let step = steps.last_mut().context("a console block starts with a command")?;
                step.printed.extend([line, "\n"]);
            }
        }
    }
    Ok(steps)
}

/// The paths that a step gives to `samovar run`, in the background.
fn run_in_background(command: &str) -> Option<Vec<&str>> {
    Some(command.strip_prefix("samovar run ")?.strip_suffix(" &")?.split(' ').collect())
}

/// Copies the examples without what was built there, their manifests with `address` in place of [`ADDRESS`].
fn copy(from: &Path, to: &Path, address: &str) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let to = to.join(&name);
        if entry.is_dir() && name != "target" {
            copy(&entry, &to, address)?;
        } else if entry.extension().is_some_and(|extension| extension == "yaml") {
            fs::write(to, fs::read_to_string(entry)?.replace(ADDRESS, address))?;
        } else if entry.is_file() {
            fs::copy(entry, to)?;
        }
    }
    Ok(())
}

/// Runs every command of an example's README, in a copy of its own.
async fn follow(example: &str) -> Result<()> {
    let root = folder(&format!("examples-{example}"))?;
    let address = format!("127.0.0.1:{}", free_port()?);
    copy(&file("examples"), &root.join("examples"), &address)?;
    let readme = fs::read_to_string(root.join("examples").join(example).join("README.md"))?;
    ensure!(readme.contains("\n$ curl "), "its README calls it by curl");
    let mut server = None;
    for Step { command, printed } in steps(&readme.replace(ADDRESS, &address))? {
        let failed = || format!("$ {command}");
        if let Some(paths) = run_in_background(&command) {
            let paths = paths.iter().map(|path| root.join(path)).collect();
            server = Some(start(&root, paths, &address, &printed).await.with_context(failed)?);
        } else {
            let output = shell(&root, &command, &address).await.with_context(failed)?;
            ensure!(output.trim_end() == printed.trim_end(), "$ {command}\n{output}\nand not\n{printed}");
        }
    }
    server.map(drop).context("its README starts `samovar run`, in a console block")
}

/// Starts `samovar run`, which says at least what is `printed`.
async fn start(root: &Path, paths: Vec<PathBuf>, address: &str, printed: &str) -> Result<Process> {
    let ops = format!("127.0.0.1:{}", free_port()?);
    let state = root.join("state").display().to_string();
    let flags = ["--listen", address, "--ops-listen", &ops, "--state-dir", &state].map(PathBuf::from);
    let arguments = [PathBuf::from("run")].into_iter().chain(paths).chain(flags);
    let mut process = Process::samovar("samovar", arguments, &[])?;
    process.answers(&format!("http://{ops}/readyz"), SOON).await?;
    for line in printed.lines() {
        ensure!(process.log().lines().any(|said| said == line), "{line}\nis not in\n{}", process.log());
    }
    Ok(process)
}

/// The output that a command writes to stdout.
async fn shell(root: &Path, command: &str, address: &str) -> Result<String> {
    let programs = std::env::var("SAMOVAR_BIN_DIR").context("SAMOVAR_BIN_DIR is not set")?;
    let path = format!("{programs}:{}", std::env::var("PATH")?);
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(root).kill_on_drop(true).stdin(Stdio::null());
    shell.env("PATH", path).env("SAMOVAR_SERVER", format!("http://{address}"));
    let output = timeout(COMMAND, shell.output()).await.context("it does not end")??;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The folders of `examples`.
fn examples() -> Result<Vec<String>> {
    let entries = fs::read_dir(file("examples"))?.collect::<Result<Vec<_>, _>>()?;
    let folders = entries.iter().filter(|entry| entry.path().is_dir());
    let names: Vec<_> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    ensure!(!names.is_empty(), "there are examples");
    Ok(names)
}

#[tokio::test]
async fn every_example_does_what_its_readme_says() -> Result<()> {
    let examples = examples()?;
    let followed = join_all(examples.iter().map(|example| follow(example))).await;
    let failed =
        examples.iter().zip(followed).filter_map(|(example, followed)| Some((example, followed.err()?)));
    let failures: Vec<_> = failed.map(|(example, error)| format!("examples/{example}: {error:#}")).collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

#[test]
fn the_index_has_every_example_and_how_it_is_run() -> Result<()> {
    let index = fs::read_to_string(file("examples/README.md"))?;
    for example in examples()? {
        let readme = fs::read_to_string(file("examples").join(&example).join("README.md"))?;
        let steps = steps(&readme)?;
        let run = steps.iter().find_map(|step| run_in_background(&step.command));
        let run = format!("samovar run {}", run.context("it is run")?.join(" "));
        let line =
            index.lines().find(|line| line.starts_with(&format!("| [{example}]({example}/README.md) |")));
        ensure!(line.is_some_and(|line| line.contains(&format!("| `{run}` |"))), "{example}: {run}");
    }
    Ok(())
}
