//! `samovar run`: manifests, folders and modules, edits while it runs, and its exit.

use std::{fs, time::Duration};

use anyhow::Result;
use samovar_testbed::Process;

use crate::{
    commands::printed,
    server::{SOON, Server, file, folder, plugin},
};

const ADD: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;
const MULTIPLY: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.mul (local.get 0) (local.get 1))))"#;

#[tokio::test]
async fn the_example_answers_as_its_readme_says() -> Result<()> {
    let folder = folder("example")?;
    fs::copy(file("examples/text/text.wasm"), folder.join("text.wasm"))?;
    let manifest = fs::read_to_string(file("examples/text/local/plugin.yaml"))?;
    fs::write(folder.join("plugin.yaml"), manifest.replace("file:../text.wasm", "file:text.wasm"))?;
    let server = Server::start(folder).await?;
    for (function, body, answer) in [
        ("upper", r#"{"text": "hello"}"#, r#""HELLO""#),
        ("apply", r#"["ab", {"repeat": 3}]"#, r#""ababab""#),
        ("apply", r#"["ab", "reverse"]"#, r#""ba""#),
        ("parse-number", r#"["-42"]"#, "-42"),
        (
            "rank",
            r#"[[{"name":"a","score":1},{"name":"b","score":2}]]"#,
            r#"[{"name":"b","score":2},{"name":"a","score":1}]"#,
        ),
        ("reverse-bytes", r#"["AQI="]"#, r#""AgE=""#),
        ("search", r#"{"text":"aXaxa","needle":"x","options":["ignore-case"]}"#, r#"[[1,"X"],[3,"x"]]"#),
    ] {
        let answered = server.call("text", function, body).await?;
        assert_eq!((answered.status, answered.body.as_str()), (200, answer), "{function}");
    }
    let error = server.call("text", "parse-number", r#"["12x"]"#).await?;
    assert_eq!((error.status, error.problem().as_str()), (502, "guest-error"));
    assert!(error.body.contains(r#""problem":"not-a-number""#), "{}", error.body);
    Ok(())
}

#[tokio::test]
async fn invoke_passes_arguments_to_a_command_and_shows_its_error() -> Result<()> {
    let folder = folder("program")?;
    fs::copy(file("tests/guests/command/command.wasm"), folder.join("command.wasm"))?;
    fs::write(folder.join("command.yaml"), plugin("command", "command.wasm", ""))?;
    let server = Server::start(folder).await?;
    let invoke = |more: &[&str]| {
        let own = ["invoke", "--server", &server.url, "command", "run"];
        printed(&[&own, more].concat())
    };
    assert_eq!(invoke(&[r#"["a b"]"#])?, (0, "run\na b\n[\"a b\"]\n".to_owned()));
    assert_eq!(invoke(&["-o", "json", "{}"])?, (0, "\"run\\n{}\"\n".to_owned()));
    let (code, error) = invoke(&["!out of tea"])?;
    assert!(code != 0 && error.contains("it exited with status 1: !out of tea"), "{code}: {error}");
    Ok(())
}

#[tokio::test]
async fn an_edit_is_a_new_revision_and_a_broken_one_leaves_the_old_one_serving() -> Result<()> {
    let folder = folder("edit")?;
    fs::write(folder.join("math.wat"), ADD)?;
    fs::write(folder.join("math.yaml"), plugin("math", "math.wat", ""))?;
    let server = Server::start(folder.clone()).await?;
    server.answers("math", "add", "[6, 7]", "13").await?;
    fs::write(folder.join("math.wat"), MULTIPLY)?;
    server.answers("math", "add", "[6, 7]", "42").await?;

    fs::write(folder.join("math.wat"), "(module (func (export")?;
    server.logs("math.wat").await?;
    assert_eq!(server.call("math", "add", "[6, 7]").await?.body, "42");
    fs::write(folder.join("math.wat"), r#"(module (import "env" "x" (func)) (func (export "add")))"#)?;
    server.logs("ImportNotGranted").await?;
    assert_eq!(server.call("math", "add", "[6, 7]").await?.body, "42");
    fs::write(folder.join("math.yaml"), plugin("math", "math.wat", "limit: {}"))?;
    server.logs("unknown field `spec.limit`").await?;
    assert_eq!(server.call("math", "add", "[6, 7]").await?.body, "42");
    fs::write(folder.join("math.yaml"), plugin("math", "math.wat", ""))?;
    fs::write(folder.join("math.wat"), ADD)?;
    server.answers("math", "add", "[6, 7]", "13").await
}

#[tokio::test]
async fn once_exits_with_success_if_all_are_ready_else_with_the_reason() -> Result<()> {
    let folder = folder("once")?;
    fs::write(folder.join("good.wat"), ADD)?;
    fs::write(folder.join("bad.wat"), r#"(module (import "env" "x" (func)) (func (export "f")))"#)?;
    let run = |name: &str| {
        let arguments = [
            "run".to_owned(),
            "--once".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--ops-listen=127.0.0.1:0".to_owned(),
            format!("--state-dir={}", folder.join("state").display()),
            folder.join(name).display().to_string(),
        ];
        Process::samovar("samovar", arguments, &[])
    };
    let mut good = run("good.wat")?;
    assert_eq!(good.ended(SOON).await?.code(), Some(0), "{}", good.log());
    assert!(good.log().contains("default/good ready at http://127.0.0.1:"), "{}", good.log());
    let mut bad = run("bad.wat")?;
    assert_eq!(bad.ended(SOON).await?.code(), Some(3), "{}", bad.log());
    assert!(bad.log().contains("ImportNotGranted") && bad.log().contains("env::x"), "{}", bad.log());
    let mut missing = run("missing.wat")?;
    assert_eq!(missing.ended(SOON).await?.code(), Some(2), "{}", missing.log());
    Ok(())
}

#[tokio::test]
async fn sigterm_exits_with_success() -> Result<()> {
    let folder = folder("terminated")?;
    fs::write(folder.join("math.yaml"), plugin("math", "math.wat", ""))?;
    fs::write(folder.join("math.wat"), ADD)?;
    let mut server = Server::start(folder).await?;
    let status = server.process.terminate(Duration::from_secs(10)).await?;
    assert!(status.success(), "{status}");
    Ok(())
}
