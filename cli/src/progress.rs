//! Progress bars on stderr, hidden unless it is a terminal.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar for received bytes.
pub(crate) fn bytes(what: &str) -> ProgressBar {
    let bar = visible();
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

/// A spinner for work of unknown duration.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let bar = visible();
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn visible() -> ProgressBar {
    if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() }
}
