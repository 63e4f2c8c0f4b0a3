//! The texts of log lines. They hold no character that a terminal obeys, and none is longer than 200
//! characters, because strangers write some of them. Used by `telemetry`; any module may ask which
//! characters are harmful.

use std::fmt::{self, Write as _};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

use super::settings::LogFormat;

/// The longest text of a line, in characters. Our own are shorter.
const LONGEST: usize = 200;

/// Replaces the rest of a text that is longer.
const CUT: char = '…';

/// The line without any character that a terminal obeys, and with no line end but its own. An escape
/// replaces each such character. The escape is valid in JSON as well, where such a character is
/// always within a string. JSON shows where a text ends, so texts in JSON are cut here;
/// [`write_field`] cuts the others.
pub(super) fn harmless(line: &str, format: LogFormat) -> String {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let mut clean = String::with_capacity(line.len() + 1);
    let mut texts = Texts::default();
    for c in line.chars() {
        let kept = if format == LogFormat::Json { texts.keep(c) } else { Some(c) };
        match kept {
            Some(c) if is_harmful(c) => {
                // Writing to a `String` cannot fail.
                let _ = write!(clean, "\\u{:04x}", u32::from(c));
            }
            kept => clean.extend(kept),
        }
    }
    clean.push('\n');
    clean
}

/// The position of a character in a line of JSON.
#[derive(Default)]
struct Texts {
    within: bool,
    /// How many characters the text has had so far; an escape counts as one.
    length: usize,
    /// How many characters of a started escape are still to come.
    escape: u8,
}

impl Texts {
    /// What to write for the next character; `None` writes nothing.
    fn keep(&mut self, c: char) -> Option<char> {
        let begins = self.escape == 0;
        match c {
            'u' if !begins => self.escape = 4,
            _ if !begins => self.escape -= 1,
            '"' => (self.within, self.length) = (!self.within, 0),
            _ if self.within => {
                self.length += 1;
                self.escape = u8::from(c == '\\');
            }
            _ => {}
        }
        match self.length {
            ..=LONGEST => Some(c),
            length => (begins && length == LONGEST + 1).then_some(CUT),
        }
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
    use serde_json::Value;

    use super::*;

    #[test]
    fn control_characters_in_a_line_are_escaped() {
        for (line, clean) in [
            ("plain\n", "plain\n"),
            ("订单…0042\n", "订单…0042\n"),
            ("no end", "no end\n"),
            ("two\nlines\r\n", "two\\u000alines\\u000d\n"),
            ("\u{1b}[31m\u{7}\u{7f}\u{0}\n", "\\u001b[31m\\u0007\\u007f\\u0000\n"),
            ("\u{9b}31m\u{85}\u{90}\n", "\\u009b31m\\u0085\\u0090\n"),
            ("\u{2028}\u{2029}\u{202e}\u{2066}\u{61c}\n", "\\u2028\\u2029\\u202e\\u2066\\u061c\n"),
        ] {
            for format in [LogFormat::Json, LogFormat::Text] {
                assert_eq!(harmless(line, format), clean, "{line:?}");
            }
        }
    }

    /// What remains of a text in a line of JSON, between two other texts.
    fn kept(text: &str) -> String {
        let line = serde_json::json!({ "a": "x", "b": text, "c": [1, "y"] });
        let line: Value =
            serde_json::from_str(&harmless(&line.to_string(), LogFormat::Json)).unwrap();
        assert_eq!((&line["a"], &line["c"][1]), (&"x".into(), &"y".into()), "{line}");
        line["b"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_json_string_is_truncated_to_200_characters_and_its_line_stays_valid() {
        for c in ["x", "号", "\"", "\\", "\n", "\u{1b}", "u", "\u{202e}"] {
            assert_eq!(kept(&c.repeat(200)), c.repeat(200));
            assert_eq!(kept(&c.repeat(201)), format!("{}…", c.repeat(200)));
            let mixed = format!("{}{}", "x".repeat(199), c.repeat(60_000));
            assert_eq!(kept(&mixed), format!("{}{c}…", "x".repeat(199)));
        }
        assert_eq!(kept(""), "");
    }

    #[test]
    fn a_field_in_text_format_is_truncated_to_200_characters() {
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
