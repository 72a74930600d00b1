//! Commands: their input, their output and their failures.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod support;

use std::time::Duration;

use samovar_runtime::{
    Abi, CallError, Format, FunctionRequest, Instances, Limits, LoadError, PluginSpec, Reuse,
};
use support::{call_as, function, guest, load};

fn spec() -> PluginSpec {
    let spec = support::spec();
    PluginSpec { limits: Limits { response_bytes: 1 << 16, ..spec.limits }, ..spec }
}

/// The same program as a core module and as a component, and the status with which each exits on failure: WASI 0.2 has
/// success and failure, and no other.
const PROGRAMS: [(&str, i32); 2] =
    [("tests/guests/command.wat", 3), ("tests/guests/command/command.wasm", 1)];

#[tokio::test]
async fn the_body_is_stdin_and_an_array_of_strings_also_the_arguments() {
    for (program, _) in PROGRAMS {
        let plugin = load(guest(program), spec()).await.unwrap();
        assert_eq!(plugin.function("run").unwrap().abi(), Some(Abi::Command), "{program}");
        assert_eq!(plugin.functions().len(), 1, "{program}");
        for (body, format, answer) in [
            (&b"hello"[..], Format::Text, "run\nhello"),
            (b"", Format::Json, "run\n"),
            (br#"["-n", "a b"]"#, Format::Json, "run\n-n\na b\n[\"-n\", \"a b\"]"),
            (br#"["-n"]"#, Format::Bytes, "run\n[\"-n\"]"),
            (br#"{"a": 1}"#, Format::Json, "run\n{\"a\": 1}"),
        ] {
            let given = call_as(&plugin, "run", body, format).await.unwrap();
            assert_eq!(given.body, answer, "{program}");
            assert_eq!(given.format, if format == Format::Bytes { format } else { Format::Text });
        }
        // Output that is not UTF-8 is bytes.
        assert_eq!(call_as(&plugin, "run", &[255], Format::Text).await.unwrap().format, Format::Bytes);
    }
}

#[tokio::test]
async fn a_nonzero_status_is_a_guest_error_with_the_end_of_stderr() {
    for (program, status) in PROGRAMS {
        let plugin = load(guest(program), spec()).await.unwrap();
        match call_as(&plugin, "run", b"!no such \"thing\"\n", Format::Text).await {
            Err(CallError::GuestError(why)) => {
                let expected = format!(r#""it exited with status {status}: !no such \"thing\"""#);
                assert_eq!(why, expected, "{program}");
            }
            other => panic!("{program}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn output_without_end_ends_at_the_limit() {
    for (program, _) in PROGRAMS {
        let plugin = load(guest(program), spec()).await.unwrap();
        match call_as(&plugin, "run", &[b'*'; 1024], Format::Text).await {
            Err(CallError::ResponseTooLarge { limit: 65536 }) => {}
            other => panic!("{program}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_has_a_fresh_instance_even_with_reuse() {
    let reuse = Some(Reuse { max_calls: 100, idle: Duration::from_secs(10) });
    for (program, _) in PROGRAMS {
        let spec = PluginSpec { instances: Instances { warm: 1, reuse: reuse.clone() }, ..spec() };
        let plugin = load(guest(program), spec).await.unwrap();
        for _ in 0..3 {
            assert_eq!(call_as(&plugin, "run", b"again", Format::Text).await.unwrap().body, "run\nagain");
        }
    }
}

#[tokio::test]
async fn a_command_is_found_by_its_abi_and_named_after_its_endpoint() {
    for (program, _) in PROGRAMS {
        let request = FunctionRequest { abi: Some(Abi::Command), ..function("report") };
        let plugin = load(guest(program), PluginSpec { functions: vec![request], ..spec() }).await.unwrap();
        assert_eq!(call_as(&plugin, "report", b"", Format::Text).await.unwrap().body, "report\n");
    }
}

#[tokio::test]
async fn an_argument_with_a_nul_is_refused() {
    let plugin = load(guest("tests/guests/command.wat"), spec()).await.unwrap();
    let nul = call_as(&plugin, "run", br#"["a\u0000b"]"#, Format::Json).await;
    assert!(matches!(nul, Err(CallError::BadArguments(_))), "{nul:?}");
}

#[tokio::test]
async fn an_endless_command_ends_at_its_timeout_and_a_trap_is_a_trap() {
    let spins = r#"(module (func (export "_start") (loop (br 0))))"#;
    let limits = Limits { timeout: Duration::from_millis(50), ..Limits::default() };
    let plugin = load(spins, PluginSpec { limits, ..spec() }).await.unwrap();
    assert!(matches!(call_as(&plugin, "run", b"", Format::Text).await, Err(CallError::Timeout { .. })));
    let plugin = load(r#"(module (func (export "_start") unreachable))"#, spec()).await.unwrap();
    assert!(matches!(call_as(&plugin, "run", b"", Format::Text).await, Err(CallError::Trap { .. })));
}

#[tokio::test]
async fn a_start_function_with_parameters_is_no_command() {
    match load(r#"(module (func (export "_start") (param i32)))"#, spec()).await {
        Err(LoadError::ExportNotFound(why)) => assert!(why.contains("takes and gives nothing"), "{why}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}
