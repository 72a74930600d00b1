//! Every WIT type as JSON and back, through a real component built from Rust.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod support;

use std::time::{Duration, Instant};

use samovar_runtime::{Call, CallError, Format, Limits, Plugin, PluginSpec};
use support::{call, json};

/// The component at a path of the project.
async fn guest(path: &str) -> Plugin {
    let limits = Limits { timeout: Duration::from_secs(2), ..Limits::default() };
    support::load(support::guest(path), PluginSpec { limits, ..support::spec() }).await.unwrap()
}

#[tokio::test]
async fn every_type_round_trips() {
    let plugin = guest("tests/guests/types/types.wasm").await;
    for (function, values) in [
        ("echo-bool", &["true", "false"][..]),
        ("echo-s8", &["-128", "127"]),
        ("echo-u8", &["0", "255"]),
        ("echo-s16", &["-32768", "32767"]),
        ("echo-u16", &["65535"]),
        ("echo-s32", &["-2147483648", "2147483647"]),
        ("echo-u32", &["4294967295"]),
        ("echo-s64", &["-9223372036854775808", "9223372036854775807"]),
        ("echo-u64", &["18446744073709551615"]),
        ("echo-f32", &["0.5", "-1.25", r#""NaN""#, r#""Infinity""#, r#""-Infinity""#]),
        ("echo-f64", &["0.1", "31.245270191439438", "1e+300", r#""NaN""#, r#""-Infinity""#]),
        ("echo-char", &[r#""a""#, r#""é""#, r#""😀""#]),
        ("echo-string", &[r#""""#, r#""grüße\n\u0000""#]),
        ("echo-bytes", &[r#""""#, r#""AP8H""#]),
        ("echo-strings", &["[]", r#"["a","b"]"#]),
        ("echo-byte-lists", &[r#"["","AQI="]"#]),
        ("echo-record", &[r#"{"x":-1,"y":2}"#]),
        (
            "echo-nested-record",
            &[r#"{"name":"n","top-left":{"x":0,"y":0},"corners":[{"x":1,"y":1}],"center":null}"#],
        ),
        ("echo-tuple", &[r#"[7,"seven",true]"#]),
        (
            "echo-variant",
            &[
                r#""nothing""#,
                r#"{"number":1.5}"#,
                r#"{"at":{"x":1,"y":2}}"#,
                r#"{"many":["a"]}"#,
                r#"{"maybe":null}"#,
            ],
        ),
        ("echo-enum", &[r#""dark-blue""#]),
        ("echo-flags", &["[]", r#"["one","three"]"#]),
        ("echo-nine-flags", &[r#"["f0","f8"]"#]),
        ("echo-thirty-two-flags", &[r#"["f0","f31"]"#]),
        ("echo-option", &["null", r#""some""#]),
        ("echo-nested-option", &["null", r#"{"some":null}"#, r#"{"some":7}"#]),
        ("echo-results", &[r#"[{"ok":"fine"},{"err":3}]"#]),
        ("echo-results-without-payloads", &[r#"["ok","err"]"#]),
        ("echo-results-with-one-payload", &[r#"[{"ok":1},"ok"]"#, r#"["err",{"err":2}]"#]),
    ] {
        for value in values {
            assert_eq!(
                json(&plugin, function, &format!("[{value}]")).await,
                *value,
                "{function} by position"
            );
            let by_name = format!("{{\"value\": {value}}}");
            assert_eq!(json(&plugin, function, &by_name).await, *value, "{function} by name");
        }
    }
}

#[tokio::test]
async fn other_spellings_of_a_value_are_accepted() {
    let plugin = guest("tests/guests/types/types.wasm").await;
    for (function, given, back) in [
        ("echo-u64", r#"["18446744073709551615"]"#, "18446744073709551615"),
        ("echo-s8", r#"["-1"]"#, "-1"),
        ("echo-f64", "[2]", "2.0"),
        ("echo-f32", r#"["1e3"]"#, "1000.0"),
        ("echo-flags", r#"[["three", "one", "one"]]"#, r#"["one","three"]"#),
        ("echo-record", r#"[{"y": 2, "x": 1}]"#, r#"{"x":1,"y":2}"#),
        (
            "echo-nested-record",
            r#"[{"name":"n","top-left":{"x":0,"y":0},"corners":[]}]"#,
            r#"{"name":"n","top-left":{"x":0,"y":0},"corners":[],"center":null}"#,
        ),
        ("echo-option", "", "null"),
        ("join", r#"{"times": 2, "left": "a", "right": "b"}"#, r#""abab""#),
        ("nothing", "", "null"),
        ("nothing", "[]", "null"),
        ("nothing", "{}", "null"),
    ] {
        assert_eq!(json(&plugin, function, given).await, back, "{function} {given}");
    }
}

#[tokio::test]
async fn mismatched_values_are_refused_with_their_place() {
    let plugin = guest("tests/guests/types/types.wasm").await;
    for (function, body, says) in [
        ("echo-u8", "[256]", "value: 256 is out of range for u8"),
        ("echo-u8", "[-1]", "out of range"),
        ("echo-u8", r#"["1x"]"#, "value: "),
        ("echo-char", r#"["ab"]"#, "a string of one character"),
        ("echo-bytes", r#"["%%"]"#, "a base64 string"),
        ("echo-enum", r#"["blue"]"#, "one of `red`, `green`, `dark-blue`"),
        ("echo-flags", r#"[["four"]]"#, "some of `one`, `two`, `three`"),
        ("echo-record", r#"[{"x": 1}]"#, "value: `y` is missing"),
        ("echo-record", r#"[{"x": 1, "y": 2, "z": 3}]"#, "unknown name `z`: expected one of `x`, `y`"),
        (
            "echo-nested-record",
            r#"[{"name":"n","top-left":{"x":0,"y":"a"},"corners":[]}]"#,
            "value: top-left: y: ",
        ),
        ("echo-strings", r#"[["a", 1]]"#, "value: [1]: "),
        ("echo-variant", r#"[{"number": "x"}]"#, "value: number: "),
        ("echo-variant", r#"["number"]"#, "`number` needs a payload of type f64"),
        ("echo-variant", r#"[{"nothing": 1}]"#, "`nothing` has no payload"),
        ("echo-variant", r#"["other"]"#, "one of `nothing`, `number`"),
        ("echo-tuple", r#"[[1, "a"]]"#, "array of 3 values"),
        ("echo-tuple", r#"[[1, "a", true, 4]]"#, "too many values: expected 3"),
        ("echo-f32", r#"["inf"]"#, "value: "),
        ("echo-nested-option", "[7]", "null or {\"some\": value}"),
        ("echo-string", "[\"\u{0}", "value: "),
    ] {
        match call(&plugin, function, body).await {
            Err(CallError::BadArguments(message)) => {
                assert!(message.contains(says), "{function} {body}: {message}");
            }
            other => panic!("{function} {body}: {other:?}"),
        }
    }
    let deep = format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000));
    assert!(matches!(call(&plugin, "echo-strings", &deep).await, Err(CallError::BadArguments(_))));
}

#[tokio::test]
async fn a_guest_error_is_the_value_of_its_err() {
    let plugin = guest("tests/guests/types/types.wasm").await;
    assert_eq!(json(&plugin, "give-result", r#"[{"ok": "fine"}]"#).await, r#""fine""#);
    for (function, body, error) in [
        ("give-result", r#"[{"err": 7}]"#, "7"),
        ("give-result-without-payloads", "[false]", "null"),
        ("give-error-record", r#"[{"x":1,"y":2}]"#, r#"{"x":1,"y":2}"#),
    ] {
        match call(&plugin, function, body).await {
            Err(CallError::GuestError(json)) => assert_eq!(json, error),
            other => panic!("{function}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn bytes_pass_unencoded_and_functions_with_resources_are_not_callable() {
    let plugin = guest("tests/guests/types/types.wasm").await;
    let echo = plugin.function("echo-bytes").unwrap();
    assert!(echo.takes_bytes());
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let call = Call { body: bytes.clone().into(), format: Format::Bytes, answer_bytes: true };
    let answer = plugin.call(echo, call).await.unwrap();
    assert_eq!((answer.format, answer.body.as_ref()), (Format::Bytes, &bytes[..]));

    let refused: Vec<_> = plugin.functions().iter().filter_map(|function| function.not_callable()).collect();
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert!(refused.iter().all(|why| why.contains("resource")), "{refused:?}");
    assert_eq!(
        plugin.function("echo-results").unwrap().signature(),
        "func(value: list<result<string, u32>>) -> list<result<string, u32>>"
    );
}

#[tokio::test]
async fn a_wasi_guest_starts_without_any_grant() {
    let plugin = guest("tests/guests/wasi/wasi.wasm").await;
    assert_eq!(json(&plugin, "environment", "").await, "[]");
    assert_eq!(json(&plugin, "arguments", "").await, "[]");
    assert_eq!(json(&plugin, "read-stdin", "").await, r#""""#);
    assert_eq!(json(&plugin, "print", r#"["hello"]"#).await, "null");
    assert_ne!(json(&plugin, "random", "").await, json(&plugin, "random", "").await);
    for (function, body) in [("read-file", r#"["/etc/passwd"]"#), ("write-file", r#"["/tmp/x", ""]"#)] {
        assert!(matches!(call(&plugin, function, body).await, Err(CallError::GuestError(_))), "{function}");
    }
    match call(&plugin, "exit", "[3]").await {
        Err(CallError::Trap { message, .. }) => assert!(message.contains("exited"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_blocking_host_call_ends_at_the_timeout() {
    let plugin = guest("tests/guests/wasi/wasi.wasm").await;
    let started = Instant::now();
    let sleep = plugin.function("sleep").unwrap();
    assert!(matches!(call(&plugin, "sleep", "[60000]").await, Err(CallError::Timeout { .. })));
    let late = started.elapsed().saturating_sub(sleep.timeout());
    assert!(late < Duration::from_millis(500), "{late:?} late");
}
