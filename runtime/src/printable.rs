//! Sanitizes text that a guest controls, for logs, statuses and responses.

use std::fmt::{self, Write};

/// The most bytes of a sanitized text: a module's names alone may be megabytes, and conditions, log lines and responses
/// repeat them.
const MAX_BYTES: usize = 1024;

/// Escapes a text as [`printable`] does, and truncates it to 1 KiB. The rest is never formatted.
pub(crate) fn sanitized(text: impl fmt::Display) -> String {
    let mut printable = Printable(String::new());
    // Writing fails only to truncate.
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
            if self.0.len() > MAX_BYTES {
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// Converts bytes to text, and escapes control characters, which could forge log lines or drive a terminal.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().fold(String::with_capacity(bytes.len()), |mut text, c| {
        push(&mut text, c);
        text
    })
}

fn push(text: &mut String, c: char) {
    match c {
        '\t' => text.push(c),
        // Line separators, and controls that reverse the direction of text.
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
    fn long_text_is_truncated_and_its_rest_never_formatted() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("and so on\n")?;
                }
            }
        }
        let cut = sanitized(Endless);
        assert!(cut.starts_with(r"and so on\nand") && cut.ends_with("...") && cut.len() < MAX_BYTES + 8);
        assert_eq!(sanitized("as it is"), "as it is");
    }
}
