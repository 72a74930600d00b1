//! What is told of a guest and comes from the guest: printable, and never more than helps.

use std::fmt::{self, Write};

/// The most that is told, in bytes: a module's names alone may be megabytes, and conditions, log lines and answers
/// carry them on.
const MOST: usize = 1024;

/// The text up to that length, as [`printable`] writes it. What is longer is never made.
pub(crate) fn sanitized(text: impl fmt::Display) -> String {
    let mut printable = Printable(String::new());
    // It only fails where it is cut.
    if write!(printable, "{text}").is_err() {
        printable.0.push_str("...");
    }
    printable.0
}

struct Printable(String);

impl Write for Printable {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            push(&mut self.0, c);
            if self.0.len() > MOST {
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// Bytes as text, without what could forge log lines or drive a terminal.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().fold(String::with_capacity(bytes.len()), |mut text, c| {
        push(&mut text, c);
        text
    })
}

fn push(text: &mut String, c: char) {
    match c {
        '\t' => text.push(c),
        // What begins a line, or makes the rest of one read backwards.
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            text.extend(c.escape_unicode());
        }
        c if c.is_control() => text.extend(c.escape_default()),
        c => text.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_lines_or_drive_a_terminal() {
        assert_eq!(printable(b"a\r\x1b[2Jb\tc"), "a\\r\\u{1b}[2Jb\tc");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
        assert_eq!(printable("\u{202e}gnirts".as_bytes()), "\\u{202e}gnirts");
    }

    #[test]
    fn what_is_too_long_is_cut_and_never_made() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("and so on\n")?;
                }
            }
        }
        let cut = sanitized(Endless);
        assert!(cut.starts_with(r"and so on\nand") && cut.ends_with("...") && cut.len() < MOST + 8);
        assert_eq!(sanitized("as it is"), "as it is");
    }
}
