//! Log lines on stderr, as text for people or as JSON for collectors.

use std::{io::IsTerminal as _, str::FromStr};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("`{other}` is not a log format: use `text` or `json`")),
        }
    }
}

/// Starts logging to stderr. `RUST_LOG` filters the lines; without it `directives` do.
///
/// Does nothing in a process that logs already, as tests do.
pub fn init(format: Format, directives: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match format {
        Format::Text => {
            let ansi = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(ansi)).try_init()
        }
        Format::Json => {
            let layer = fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
            registry.with(layer).try_init()
        }
    };
}
