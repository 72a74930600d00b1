//! `samovar invoke [NAMESPACE/]PLUGIN FUNCTION [JSON|-]`: calls a function over HTTP.

use std::io::{Read as _, Write as _};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::Value;

use crate::output::{Failure, Output};

/// Call a function of a running plugin and print the result.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plugin. Default namespace: `default`.
    #[arg(value_name = "[NAMESPACE/]PLUGIN")]
    plugin: String,
    /// The function.
    function: String,
    /// The arguments: a JSON object by name, or an array by position; `-` reads them from stdin.
    #[arg(value_name = "JSON|-")]
    arguments: Option<String>,
    /// Send the arguments and print the result as raw bytes (application/octet-stream).
    #[arg(long)]
    octet_stream: bool,
    /// The URL of an agent.
    #[arg(long, value_name = "URL", env = "SAMOVAR_SERVER", default_value = "http://127.0.0.1:8080")]
    server: String,
}

const OCTET_STREAM: &str = "application/octet-stream";
const JSON: &str = "application/json";

pub(crate) async fn run(args: Args, output: Output) -> Result<(), Failure> {
    let (namespace, plugin) = args.plugin.split_once('/').unwrap_or(("default", &args.plugin));
    let body = match args.arguments.as_deref() {
        Some("-") => {
            let mut body = Vec::new();
            std::io::stdin().lock().read_to_end(&mut body).map_err(Failure::failed)?;
            body
        }
        Some(json) => json.as_bytes().to_vec(),
        None => Vec::new(),
    };
    let url = format!("{}/v1/{namespace}/{plugin}/{}", args.server.trim_end_matches('/'), args.function);
    let form = if args.octet_stream { OCTET_STREAM } else { JSON };
    let request =
        reqwest::Client::new().post(&url).header(CONTENT_TYPE, form).header(ACCEPT, form).body(body);
    let unreachable = |error: reqwest::Error| {
        let why = error.without_url();
        Failure::failed(format!(
            "no agent answers at {}: {why}; start one with `samovar run`, or set --server",
            args.server
        ))
    };
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|media| media == JSON);
    let body = response.bytes().await.map_err(unreachable)?;
    if !status.is_success() {
        return Err(problem(status.as_u16(), &body));
    }
    if output == Output::Json && !args.octet_stream {
        let value = if is_json {
            serde_json::from_slice(&body).map_err(Failure::failed)?
        } else {
            Value::String(String::from_utf8_lossy(&body).into_owned())
        };
        output.print(&value, "");
        return Ok(());
    }
    let newline: &[u8] = if args.octet_stream { b"" } else { b"\n" };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&body).and_then(|()| stdout.write_all(newline)).map_err(Failure::failed)?;
    Ok(())
}

/// Formats a problem object as one sentence, followed by the guest's backtrace.
fn problem(status: u16, body: &[u8]) -> Failure {
    let Ok(problem) = serde_json::from_slice::<Value>(body) else {
        return Failure::call(format!("HTTP {status}: {}", String::from_utf8_lossy(body)));
    };
    let detail = match &problem["detail"] {
        Value::String(detail) => detail.clone(),
        detail => detail.to_string(),
    };
    let mut message =
        format!("{} ({status}): {detail}", problem["title"].as_str().unwrap_or("the call failed"));
    for frame in problem["backtrace"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        message.push_str("\n    in ");
        message.push_str(frame);
    }
    Failure::call(message)
}
