//! The texts of log lines. They hold no character that a terminal obeys, and none is longer than 200
//! characters, because strangers write some of them. Used by `telemetry`; any module may ask which
//! characters are harmful.

use std::fmt::{self, Write as _};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// The longest text of a line, in characters. Our own are shorter.
const LONGEST: usize = 200;

/// Replaces the rest of a text that is longer.
const CUT: char = '…';

/// The line without any character that a terminal obeys, and with no line end but its own. An escape
/// replaces each such character.
pub(super) fn harmless(line: &str) -> String {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let mut clean = String::with_capacity(line.len() + 1);
    for c in line.chars() {
        if is_harmful(c) {
            // Writing to a `String` cannot fail.
            let _ = write_escape(&mut clean, c);
        } else {
            clean.push(c);
        }
    }
    clean.push('\n');
    clean
}

/// Writes what replaces a harmful character. All of them are in the basic plane, so it is JSON, too.
fn write_escape(writer: &mut impl fmt::Write, c: char) -> fmt::Result {
    write!(writer, "\\u{:04x}", u32::from(c))
}

/// Writes the inside of a JSON string, of at most [`LONGEST`] characters. Fails where the text is cut.
pub(super) struct Quoted<W> {
    writer: W,
    /// How many characters may follow.
    left: usize,
}

impl<W: fmt::Write> Quoted<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, left: LONGEST }
    }
}

impl<W: fmt::Write> fmt::Write for Quoted<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_plain = |b: u8| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\';
        if text.len() <= self.left && text.bytes().all(is_plain) {
            self.left -= text.len();
            return self.writer.write_str(text);
        }
        for c in text.chars() {
            let Some(left) = self.left.checked_sub(1) else {
                self.writer.write_char(CUT)?;
                return Err(fmt::Error);
            };
            self.left = left;
            match c {
                '"' => self.writer.write_str("\\\"")?,
                '\\' => self.writer.write_str("\\\\")?,
                c if is_harmful(c) => write_escape(&mut self.writer, c)?,
                c => self.writer.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Writes a field of a line that is for people: the message as it is, every other field after its
/// name.
pub(super) fn write_field(
    writer: &mut Writer<'_>,
    field: &Field,
    value: &dyn fmt::Debug,
) -> fmt::Result {
    match field.name() {
        "message" => {}
        // The source location of a line that a library logs through the `log` crate.
        name if name.starts_with("log.") => return Ok(()),
        name => write!(writer, " {name}=")?,
    }
    // This fails where the text was cut, and the line goes on all the same.
    let _ = write!(Short { writer, left: LONGEST }, "{value:?}");
    Ok(())
}

/// Writes up to `left` more characters, and fails at the first one beyond that.
struct Short<'a, 'w> {
    writer: &'a mut Writer<'w>,
    left: usize,
}

impl fmt::Write for Short<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some((end, _)) = text.char_indices().nth(self.left) else {
            self.left -= text.chars().count();
            return self.writer.write_str(text);
        };
        self.writer.write_str(&text[..end])?;
        self.writer.write_char(CUT)?;
        Err(fmt::Error)
    }
}

/// Control characters, characters that end a line for some readers, and characters that change the
/// direction of text.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_holds_what_a_terminal_obeys() {
        for (line, clean) in [
            ("plain\n", "plain\n"),
            ("订单…0042\n", "订单…0042\n"),
            ("no end", "no end\n"),
            ("two\nlines\r\n", "two\\u000alines\\u000d\n"),
            ("\u{1b}[31m\u{7}\u{7f}\u{0}\n", "\\u001b[31m\\u0007\\u007f\\u0000\n"),
            ("\u{9b}31m\u{85}\u{90}\n", "\\u009b31m\\u0085\\u0090\n"),
            ("\u{2028}\u{2029}\u{202e}\u{2066}\u{61c}\n", "\\u2028\\u2029\\u202e\\u2066\\u061c\n"),
        ] {
            assert_eq!(harmless(line), clean, "{line:?}");
        }
    }

    #[test]
    fn a_field_for_people_has_200_characters() {
        let written = |text: &str| {
            let mut line = String::new();
            let mut short = Short { writer: &mut Writer::new(&mut line), left: LONGEST };
            let _ = write!(short, "{}", text.get(..5).unwrap_or_default());
            let _ = write!(short, "{}", text.get(5..).unwrap_or_default());
            line
        };
        assert_eq!(written(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(written(&"x".repeat(201)), format!("{}…", "x".repeat(200)));
        assert_eq!(written(&"x".repeat(60_000)), format!("{}…", "x".repeat(200)));
    }
}
