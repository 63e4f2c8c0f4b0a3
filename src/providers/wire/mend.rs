//! Repairs JSON whose texts are invalid: some vendors cut texts in the middle of a character, and a
//! field that nobody reads must not make an answer unreadable. Used by `wire` only.

use std::fmt::Write as _;

use serde::de::IgnoredAny;

/// Marks the place where a text could not be read: a noncharacter, which Unicode reserves for internal
/// use.
pub(super) const BROKEN: char = '\u{fdd0}';

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the JSON with [`BROKEN`] in place of everything in its texts that is not a character: bytes
/// that are not UTF-8, half a surrogate pair, an unknown escape. Raw control characters are escaped,
/// and a word that JSON does not have (`NaN`) becomes such a text. Valid JSON stays unchanged.
pub(super) fn mended(json: &[u8]) -> String {
    let json = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json);
    let mut mended = String::with_capacity(json.len());
    let mut in_text = false;
    for chunk in json.utf8_chunks() {
        let mut rest = chunk.valid();
        while !rest.is_empty() {
            let length = if in_text { of_text(rest) } else { of_structure(rest) };
            let (piece, after) = rest.split_at(length);
            rest = after;
            in_text ^= piece == "\"";
            push(&mut mended, piece, in_text);
        }
        if !chunk.invalid().is_empty() {
            mended.push(BROKEN);
        }
    }
    mended
}

/// The length of the first token inside a text: its end, a control character, an escape, or everything
/// before these.
fn of_text(rest: &str) -> usize {
    let is_special = |c: char| c < ' ' || matches!(c, '"' | '\\');
    match rest.find(is_special).unwrap_or(rest.len()) {
        0 if rest.starts_with('\\') => escape(rest).unwrap_or(1),
        0 => 1,
        plain => plain,
    }
}

/// The length of the first token outside of texts: a word, a number, or one character.
fn of_structure(rest: &str) -> usize {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    match rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()) {
        0 => rest.chars().next().map_or(0, char::len_utf8),
        word => word,
    }
}

/// The length of the escape at the start of the text, if it stands for a character.
fn escape(text: &str) -> Option<usize> {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
        u16::from_str_radix(digits, 16).ok()
    };
    match (text.as_bytes().get(1)?, unit(text)) {
        (b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', _) => Some(2),
        (_, Some(0xd800..=0xdbff)) => {
            let second = text.get(6..).and_then(unit)?;
            matches!(second, 0xdc00..=0xdfff).then_some(12)
        }
        (_, Some(0xdc00..=0xdfff) | None) => None,
        (_, Some(_)) => Some(6),
    }
}

fn push(mended: &mut String, piece: &str, in_text: bool) {
    let is_word = !in_text && piece.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    match piece.as_bytes() {
        _ if is_word && serde_json::from_str::<IgnoredAny>(piece).is_err() => {
            mended.extend(['"', BROKEN, '"']);
        }
        b"\\" if in_text => mended.push(BROKEN),
        [control @ 0..b' '] if in_text => {
            // Writing to a String cannot fail.
            let _ = write!(mended, "\\u{control:04x}");
        }
        _ => mended.push_str(piece),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(bytes: &[u8]) -> Option<Value> {
        serde_json::from_str(&mended(bytes)).ok()
    }

    #[test]
    fn invalid_characters_are_marked_and_the_rest_is_kept() {
        let cases: &[(&[u8], &str)] = &[
            (b"\xe7\x94\xb0\xe7\x94", "\u{7530}\u{fdd0}"),
            (b"\xff\xfe", "\u{fdd0}\u{fdd0}"),
            (br"a\ud83d", "a\u{fdd0}ud83d"),
            (br"\ud83d\ude9a", "\u{1f69a}"),
            (br"\ude9a\ud83d", "\u{fdd0}ude9a\u{fdd0}ud83d"),
            (br"\ud83d\u0041", "\u{fdd0}ud83dA"),
            (br"\u4f", "\u{fdd0}u4f"),
            (br"\u+041", "\u{fdd0}u+041"),
            (br"\x41\'", "\u{fdd0}x41\u{fdd0}'"),
            (b"\\\xff", "\u{fdd0}\u{fdd0}"),
            (b"a\nb\x00", "a\nb\0"),
            (br#"\"\\\/\b\f\n\r\t\u00e9"#, "\"\\/\u{8}\u{c}\n\r\t\u{e9}"),
            ("NaN 号 '{[".as_bytes(), "NaN 号 '{["),
        ];
        for (bytes, expected) in cases {
            let json = [b"{\"k\":\"", *bytes, b"\"}"].concat();
            assert_eq!(read(&json), Some(json!({ "k": expected })), "{bytes:?}");
            let json = [b"{\"", *bytes, b"\":[1]}"].concat();
            assert_eq!(read(&json), Some(json!({ *expected: [1] })), "{bytes:?}");
        }
    }

    #[test]
    fn a_word_that_is_not_json_becomes_a_broken_string() {
        for word in ["NaN", "-Infinity", "Infinity", "undefined", "01", "1.", "0x10", "True", "nul"]
        {
            let json = format!("{{\"k\":{word},\"l\":[{word},1.5e400,null]}}");
            let mended = mended(json.as_bytes());
            assert_eq!(mended, "{\"k\":\"\u{fdd0}\",\"l\":[\"\u{fdd0}\",1.5e400,null]}", "{word}");
        }
        assert_eq!(mended(b"\xef\xbb\xbf{}"), "{}");
        for not_json in
            ["", "<html>", "{", "{\"k\":\"", "{\"k\":tru", "{\"k\":1}}", "{\"k\" 1}", "\\"]
        {
            assert_eq!(read(not_json.as_bytes()), None, "{not_json}");
        }
    }

    proptest! {
        #[test]
        fn valid_json_is_unchanged(text in any::<String>(), number in any::<f64>(), whole in any::<u64>()) {
            let json = json!({ &*text: [&text, [number, -number], whole, -1, true, null], "n": {} });
            prop_assert_eq!(mended(json.to_string().as_bytes()), json.to_string());
        }

        #[test]
        fn invalid_bytes_in_a_string_do_not_affect_what_follows(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let fits = |b: &u8| !matches!(b, b'"' | b'\\');
            let bytes: Vec<u8> = bytes.into_iter().filter(fits).collect();
            let json = [b"{\"a\":\"", &*bytes, b"\",\"b\":1}"].concat();
            prop_assert_eq!(&read(&json).unwrap()["b"], 1);
        }
    }
}
