//! Prints results and failures as text or JSON, and defines the exit codes.

use std::{fmt, io::Write as _, process::ExitCode};

use serde::Serialize;

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Text for people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// A command's error, with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure that a retry may resolve.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// Invalid input.
    pub(crate) fn bad_input(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// A plugin did not become ready.
    pub(crate) fn not_ready(message: impl fmt::Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// The called function returned an error.
    pub(crate) fn call(message: impl fmt::Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Output {
    /// Prints one result to stdout: `value` as JSON, or `text`. Ignores write errors, such as a closed pipe.
    pub(crate) fn print(self, value: &impl Serialize, text: impl fmt::Display) {
        let line = match self {
            Self::Text => text.to_string(),
            Self::Json => serde_json::to_string(value).unwrap_or_default(),
        };
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    /// Prints a failure to stderr and returns its exit code.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        match self {
            Self::Text => eprintln!("error: {}", failure.message),
            Self::Json => eprintln!("{}", serde_json::json!({ "error": failure.message })),
        }
        ExitCode::from(failure.code)
    }
}
