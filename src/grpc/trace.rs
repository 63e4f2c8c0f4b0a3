//! The trace that a call is part of, as its caller says in W3C Trace Context's `traceparent`.
//! Used by `grpc` only.

use http::HeaderMap;

/// The trace's id; `None` where there is none, or anything about it is not as the specification
/// has it.
pub(super) fn id(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let version = hex(parts.next()?, 2).filter(|version| *version != "ff")?;
    let id = hex(parts.next()?, 32).filter(|id| has_value(id))?;
    hex(parts.next()?, 16).filter(|parent| has_value(parent))?;
    hex(parts.next()?, 2)?;
    // Later versions may have more to say.
    let whole = version != "00" || parts.next().is_none();
    whole.then(|| id.to_owned())
}

fn hex(part: &str, length: usize) -> Option<&str> {
    let is_hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    Some(part).filter(|part| is_hex && part.len() == length)
}

fn has_value(part: &str) -> bool {
    part.bytes().any(|b| b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(values: &[&[u8]]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", http::HeaderValue::from_bytes(value).unwrap());
        }
        id(&headers)
    }

    #[test]
    fn a_valid_traceparent_gives_its_trace() {
        for text in [
            format!("00-{ID}-00f067aa0ba902b7-01"),
            format!("00-{ID}-00f067aa0ba902b7-00"),
            format!("cc-{ID}-00f067aa0ba902b7-01"),
            format!("cc-{ID}-00f067aa0ba902b7-01-what-the-future-will-be-like"),
        ] {
            assert_eq!(read(&[text.as_bytes()]).as_deref(), Some(ID), "{text}");
        }
    }

    #[test]
    fn anything_else_gives_none() {
        assert_eq!(read(&[]), None);
        let valid = format!("00-{ID}-00f067aa0ba902b7-01");
        assert_eq!(read(&[valid.as_bytes(), valid.as_bytes()]), None);
        let bytes = format!("00-{ID}-00f067aa0ba902b7-01\u{85}");
        assert_eq!(read(&[bytes.as_bytes()]), None);
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{ID}"),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("00-{ID}-00f067aa0ba902b7-"),
            format!("00-{ID}-00f067aa0ba902b7-1"),
            format!("00-{ID}-00f067aa0ba902b7-0x"),
            format!("00-{ID}-00f067aa0ba902b7-01-"),
            format!("00-{ID}-00f067aa0ba902b7-01-more"),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("0-{ID}-00f067aa0ba902b7-01"),
            format!("cc-{ID}-00f067aa0ba902b7-01more"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{ID}0-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", &ID[1..]),
            format!(" 00-{ID}-00f067aa0ba902b7-01"),
            format!("00-{ID}-00f067aa0ba902b7-01\t"),
        ] {
            assert_eq!(read(&[text.as_bytes()]), None, "{text:?}");
        }
    }
}
