//! How results and failures are printed, and the exit code that each failure means.

use std::{fmt, io::Write as _, process::ExitCode};

use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One JSON object a result, for programs.
    Json,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Something went wrong that another try may mend.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// The user's own input is wrong.
    pub(crate) fn bad_input(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// A plugin did not become ready.
    pub(crate) fn not_ready(message: impl fmt::Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// The called function answered with an error.
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
    /// Prints one result: the value as JSON, or `text` for people. A reader that has gone away ends it quietly.
    pub(crate) fn print(self, value: &impl Serialize, text: impl fmt::Display) {
        let line = match self {
            Self::Text => text.to_string(),
            Self::Json => serde_json::to_string(value).unwrap_or_default(),
        };
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    /// Says why it failed, on stderr.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        match self {
            Self::Text => eprintln!("error: {}", failure.message),
            Self::Json => eprintln!("{}", serde_json::json!({ "error": failure.message })),
        }
        ExitCode::from(failure.code)
    }
}
