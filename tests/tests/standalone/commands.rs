//! The other commands: their output, and their exit code and message on invalid input.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result};

use crate::server::{file, folder, plugin};

fn samovar(arguments: &[&str]) -> Result<Output> {
    let programs = std::env::var_os("SAMOVAR_BIN_DIR")
        .context("SAMOVAR_BIN_DIR is not set: run `make test-standalone`")?;
    Ok(Command::new(Path::new(&programs).join("samovar")).args(arguments).output()?)
}

/// The exit code and the output of a command, stdout before stderr.
pub fn printed(arguments: &[&str]) -> Result<(i32, String)> {
    let output = samovar(arguments)?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().unwrap_or(-1), text))
}

#[test]
fn inspect_shows_the_exports_and_imports_of_a_module() -> Result<()> {
    let text = file("examples/text/text.wasm").display().to_string();
    let (code, report) = printed(&["inspect", &text])?;
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("component") && report.contains("func(text: string) -> string"), "{report}");
    let (code, report) = printed(&["inspect", "-o", "json", &text])?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    assert_eq!((code, report["kind"].as_str()), (0, Some("component")));
    for (guest, says) in [
        ("command/command.wasm", "Command, export wasi:cli/run@0.2"),
        ("command.wat", "Command, export _start"),
        ("wasm-engine.wat", "WasmEngine, export echo"),
        ("trio.wat", "Buffer, export process_data"),
    ] {
        let guest = file(&format!("tests/guests/{guest}")).display().to_string();
        let (code, report) = printed(&["inspect", &guest])?;
        assert_eq!(code, 0, "{report}");
        assert!(report.contains(says) && !report.contains("not provided"), "{report}");
    }
    let unknown = file("tests/guests/unknown-import.wat").display().to_string();
    let (_, report) = printed(&["inspect", &unknown])?;
    assert!(report.contains("not provided"), "{report}");
    Ok(())
}

#[test]
fn invalid_input_exits_with_code_2_and_a_message() -> Result<()> {
    let folder = folder("commands")?;
    fs::write(folder.join("broken.yaml"), plugin("text", "text.wasm", "limits: { timeout: 2h }"))?;
    fs::write(folder.join("no.wasm"), b"not wasm")?;
    let path = |name: &str| folder.join(name).display().to_string();
    for (arguments, says) in [
        (vec!["validate", &path("broken.yaml")], "at most 1h"),
        (vec!["validate", &path("missing.yaml")], "No such file"),
        (vec!["inspect", &path("no.wasm")], "no.wasm"),
        (vec!["inspect", "Not A Reference"], "is not an image reference"),
        (vec!["push", &path("no.wasm"), "127.0.0.1:1/x:1"], "no.wasm"),
        (vec!["run", "--listen", "nonsense", "x.wat"], "--listen"),
        (vec!["frobnicate"], "frobnicate"),
    ] {
        let (code, text) = printed(&arguments)?;
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
    let (code, text) = printed(&["invoke", "--server", "http://127.0.0.1:1", "text", "upper"])?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no agent answers"), "{text}");
    Ok(())
}

#[test]
fn validate_accepts_the_manifest_of_the_example() -> Result<()> {
    let manifest = file("examples/text/local/plugin.yaml").display().to_string();
    let (code, text) = printed(&["validate", &manifest])?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("wasmplugin/text is valid"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_module_is_pushed_and_pulled_unchanged() -> Result<()> {
    let folder = folder("registry")?;
    let registry = samovar_testbed::Registry::start().await?;
    let text = file("examples/text/text.wasm").display().to_string();
    let reference = format!("{}/demo/text:1.0", registry.address());
    let (code, pinned) = printed(&["push", &text, &reference])?;
    assert_eq!(code, 0, "{pinned}");
    assert!(pinned.contains("@sha256:"), "{pinned}");
    let out = folder.join("out.wasm").display().to_string();
    let (code, printed_text) = printed(&["pull", &reference, "--file", &out])?;
    assert_eq!(code, 0, "{printed_text}");
    assert_eq!(fs::read(&out)?, fs::read(&text)?);
    let (code, report) = printed(&["inspect", &reference])?;
    assert_eq!(code, 0, "{report}");
    let (code, missing) = printed(&["pull", &format!("{}/demo/none:1", registry.address()), "--file", &out])?;
    assert_eq!(code, 1, "{missing}");
    assert!(missing.contains("is not in the registry"), "{missing}");
    Ok(())
}

#[test]
fn the_crds_and_completions_are_printed() -> Result<()> {
    let (code, crds) = printed(&["crds"])?;
    assert_eq!(code, 0);
    assert!(
        crds.contains("kind: CustomResourceDefinition") && crds.contains("wasmplugins.samovar.dev"),
        "{crds}"
    );
    let (code, script) = printed(&["completion", "bash"])?;
    assert_eq!(code, 0);
    assert!(script.contains("_samovar"), "{script}");
    Ok(())
}
