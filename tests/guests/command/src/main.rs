//! A program as Rust builds it, which does the same as `command.wat`: it writes its arguments, each on a line, and then
//! its stdin to stdout. If stdin begins with `!`, it writes stdin to stderr instead and exits with status 3, of which
//! WASI 0.2 reports only that it is not 0; if it begins with `*`, it writes without end.

use std::io::{Read as _, Write as _, stderr, stdin, stdout};

fn main() -> std::io::Result<()> {
    let arguments: String = std::env::args().map(|argument| argument + "\n").collect();
    stdout().write_all(arguments.as_bytes())?;
    let mut given = Vec::new();
    stdin().read_to_end(&mut given)?;
    match given.first() {
        Some(b'!') => {
            stderr().write_all(&given)?;
            std::process::exit(3);
        }
        Some(b'*') => loop {
            stdout().write_all(&given)?;
        },
        _ => stdout().write_all(&given),
    }
}
